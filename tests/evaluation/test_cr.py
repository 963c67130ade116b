"""The protocol cr: what it runs, that no result of it passes for AutoAttack's, and its verdicts beside the official
AutoAttack code's."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat import cli
from clat.attacks import pgd
from clat.attacks.constraint_relaxation import ConstraintRelaxationSearch
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.core.units import parse_size
from clat.data import load_split
from clat.evaluation import PROTOCOLS, AttackSpec, Protocol, evaluate, find_protocol
from clat.evaluation.compare import compare
from clat.evaluation.planned_search import plan_searches
from clat.evaluation.protocols import protocol_title
from clat.models.resnet import resnet18

# What it runs


def built(classes: int, norm: str = "linf") -> tuple[ConstraintRelaxationSearch, list[str]]:
    todo, notes = plan_searches(PROTOCOLS["cr"], ThreatModel.parse(0.1, norm), classes=classes, seed=3)
    (one,) = todo
    search = one.build(nn.Identity())
    assert isinstance(search, ConstraintRelaxationSearch)
    assert (one.label, one.exact) == ("cr", False)
    return search, notes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_one_search_with_the_published_settings(norm: str) -> None:
    search, notes = built(10, norm)
    assert (search.eps, search.norm, search.targets, search.steps, search.rounds) == (0.1, norm, 3, 150, 5)
    (note,) = notes
    assert "cr is not AutoAttack" in note


def test_fewer_classes_have_fewer_targets() -> None:
    search, notes = built(3)
    assert search.targets == 2
    assert "cr: 2 targets instead of 3, as there are 3 classes" in notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds of attack 'cr' is 0"),
        ({"loss": "ce"}, "attack 'cr' has no setting 'loss': it has steps, targets, rounds"),
        ({"attack": "pgd", "rounds": 2}, "attack 'pgd' has no setting 'rounds'"),
    ],
)
def test_settings_that_it_does_not_have(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClatError, match=message):
        AttackSpec(**{"attack": "cr", **settings})


def test_robust_exactly_where_the_nearest_boundary_is_beyond_eps(linear: Any, samples: Any) -> None:
    model = linear(4)
    model.w.data /= 20  # so that no margin is beyond a half, where an image is given up
    x, y = samples(model, 30)
    distance = model.distances(x, y)
    eps = distance[distance > 0].median().item()
    result = evaluate(model, x, y, protocol="cr", eps=eps)
    sure = (distance / eps - 1).abs() > 0.02
    assert torch.equal(result.robust[sure], (distance > eps)[sure])
    assert sure.sum() > 20


# What its results say


def test_every_result_says_that_it_is_not_autoattack(linear: Any, samples: Any, tmp_path: Path) -> None:
    model = linear()
    x, y = samples(model, 12)
    result = evaluate(model, x, y, protocol="cr", eps=0.05)
    assert any("not AutoAttack" in note for note in result.notes)
    assert PROTOCOLS["cr"].title == "cr (not AutoAttack)"
    file = tmp_path / "cr.json"
    result.to_json(file)
    data = json.loads(file.read_text())
    assert any("not AutoAttack" in note for note in data["notes"])
    assert protocol_title(data["protocol"]) == "cr (not AutoAttack)"
    assert "not AutoAttack" in str(compare(result, file).table().title)


def test_no_other_title_changes() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.title == ("cr (not AutoAttack)" if name == "cr" else name)
    own = Protocol(name="own", attacks=(AttackSpec(attack="cr"), AttackSpec(attack="square")))
    assert own.title == "own (not AutoAttack)"
    assert protocol_title({"name": "old"}) == protocol_title({"name": "old", "attacks": 3}) == "old"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--model", "resnet18", "--width", "4", "--num-samples", "3", "--protocol", "cr"]
    assert cli.main([*words, "--eps", "0.01", "--device", "cpu", "--out", str(tmp_path / "out.json")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "note: cr is not AutoAttack" in output
    assert "cr (not AutoAttack), linf eps 0.01" in output


# Beside the official code


@pytest.fixture(scope="module")
def foreign() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "foreign_networks.py"
    spec = importlib.util.spec_from_file_location("clat_foreign_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not all((module.weights_folder() / file).is_file() for file in module.FILES.values()):
        pytest.skip("needs CLAT_DATA_DIR with cifar10, and the weights folder beside it")
    return module


@pytest.fixture
def quiet() -> Iterator[None]:
    """The official code logs much and seeds the global random state."""
    logging.disable(logging.CRITICAL)
    with torch.random.fork_rng(devices=[]):
        yield
    logging.disable(logging.NOTSET)


def official_autoattack(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: str) -> Tensor:
    official = pytest.importorskip("pyautoattack").AutoAttack(
        model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=float(parse_size(eps, norm=norm)), version="standard",
        device="cpu", seed=0,
    )  # fmt: skip
    _, found = official.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))
    return found == y


def agree(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: str) -> None:
    """Within one image of the official verdict, and the same on nearly all."""
    theirs = official_autoattack(model, x, y, norm, eps)
    result = evaluate(model, x, y, protocol="cr", eps=eps, norm=norm, batch_size=100)
    assert abs(int(result.robust.sum()) - int(theirs.sum())) <= 1
    assert (result.robust == theirs).double().mean() >= 1 - 2 / len(x)
    assert 0 < result.robust.sum() < result.correct.sum()


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("norm", "eps"), [("linf", "2/255"), ("linf", "8/255"), ("l2", "0.5")])
@pytest.mark.parametrize("name", ["cnn_a", "resnet4b"])
def test_the_verdicts_of_the_official_code(name: str, norm: str, eps: str, foreign: ModuleType) -> None:
    count = {"cnn_a": 50, "resnet4b": 30}[name]
    part = load_split("cifar10", "test", resident_limit=0, cache=False).take(count).load()
    assert isinstance(part.images, Tensor)
    agree(foreign.foreign_network(name), part.images.float() / 255, part.labels, norm, eps)


def robust_resnet(x: Tensor, y: Tensor) -> nn.Module:
    """A ResNet-18 of width 4 after a hundred steps of adversarial training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet18(width=4)
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for step in range(100):
            rows = torch.randint(len(x), (64,))
            batch = pgd(net, x[rows], y[rows], eps=0.1, steps=2, seed=step)
            optimizer.zero_grad()
            F.cross_entropy(net(batch), y[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_the_verdicts_of_the_official_code_on_a_narrow_resnet18() -> None:
    def digits(split: str) -> tuple[Tensor, Tensor]:
        part = load_split("digits", split)
        assert isinstance(part.images, Tensor)
        return part.images.float() / 255, part.labels

    model, (x, y) = robust_resnet(*digits("train")), digits("test")
    agree(model, x[:40], y[:40], "linf", "0.1")


Build = Callable[[], nn.Module]


def test_bfloat16_verdicts_are_those_of_float32(tiny_resnet: Build, images: Tensor) -> None:
    """However it searched, the verdict is a fresh forward pass in float32."""
    model = tiny_resnet()
    with torch.no_grad():
        y = model(images).argmax(1)
    protocol = Protocol(name="short", attacks=(AttackSpec(attack="cr", steps=30, rounds=1),))
    result = evaluate(model, images, y, protocol=protocol, eps=0.02, precision="bfloat16", keep_examples=True)
    with torch.no_grad():
        assert torch.equal(model(result.x_adv).argmax(1) == y, result.robust)


def test_a_protocol_file_may_name_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nattacks = [{ attack = "cr", rounds = 2 }]')
    assert find_protocol(file).attacks[0].rounds == 2
