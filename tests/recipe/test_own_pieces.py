"""Objectives, treatments and rankings of the user's own: by path, by entry point, checked like built-in ones."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import clat
from clat.core import plugins
from clat.core.errors import ClatError
from clat.data import load_split
from clat.evaluation import PROTOCOLS, AttackSpec, Protocol
from clat.evaluation.own_attack import find_own_attack, source_digest
from clat.objectives import PgdAT
from clat.recipe.explain import explained_recipe
from clat.recipe.toml import build_recipe, read_recipe, recipe_data, recipe_hash, recipe_toml

MODULE = '''
from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

import clat
from clat.core.errors import ClatError
from clat.criticality import Ranking, RankingReport, RankingRow
from clat.data import ImageSet
from clat.evaluation import AttackSpec, Protocol
from clat.network.cost import Cost
from clat.objectives import Loss, Objective
from clat.runtime.callback import StageCallback
from clat.treatments import Treatment


@dataclass(frozen=True, kw_only=True)
class Noisy(Objective):
    """Cross-entropy under Gaussian noise."""

    std: float = 0.1
    """Of the noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.std <= 0:
            raise ClatError(f"std is {self.std}: expected more than 0")

    def examples(self, model, x, y, step):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(step.seed))
        return ((x + self.std * noise).clamp(0, 1),)

    def cost(self, model, x, y, examples, step):
        total = nn.functional.cross_entropy(model(examples[0]), y, label_smoothing=self.label_smoothing)
        return Loss(total, {"cross_entropy": total.detach()})


class Undecorated(Noisy):
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Bare(Objective):
    def cost(self, model, x, y, examples, step):
        return model(x).sum()


@dataclass(frozen=True, kw_only=True)
class Halved(Treatment):
    """Halves the learning rate."""

    factor: float = 0.5

    def on_stage_start(self, context):
        callback = StageCallback()
        callback.learning_rate = lambda rate: rate * self.factor
        return callback


@dataclass(frozen=True, kw_only=True)
class Size(Ranking):
    """Ranks layers by their number of weights."""

    about = "number of weights"
    sign: int = 1

    def measure(self, model, x, y, *, layers, eps, norm="linf", seed=0, initial=None):
        rows = [
            RankingRow(one.index, one.name, one.kind, one.num_params, self.sign * one.num_params)
            for one in layers
        ]
        return RankingReport(self.name, self.about, rows, len(x), seed, {}, {}, Cost())


def corner(model, x, y, *, eps, share: float = 1.0):
    """Push every pixel up."""
    return (x + share * eps).clamp(0, 1)


def noise(model, x, y, *, eps, seed):
    step = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (x + eps * step.sign()).clamp(0, 1)


def far(model, x, y, *, eps):
    return x + 2 * eps


def parts(model, x, y, *, eps):
    """Look at the network's parts, as feature attacks do, and attack what one gives."""
    seen = []
    handle = model.layer3[0].conv1.register_forward_hook(lambda module, args, output: seen.append(output))
    logits = model(x)
    handle.remove()
    assert logits.dtype == torch.float32
    names = [layer.name for layer in clat.enumerate_layers(model, x)]
    assert "layer3.0.conv1" in names
    assert "layer3.0.conv1.weight" in model.state_dict()
    twin = copy.deepcopy(model)
    assert torch.allclose(twin(x), logits, atol=0.05)
    twin.linear.weight.data.zero_()
    assert torch.allclose(twin(x), twin.linear.bias.expand_as(logits), atol=0.05), "its own weights"
    return (x + eps * (seen[0].mean((1, 2, 3)) > 0).view(-1, 1, 1, 1)).clamp(0, 1)


def flat(model, x, y, *, eps):
    return x.flatten(1)


UP = Protocol(name="up", attacks=(AttackSpec(attack="own_pieces:corner"),))


def blobs(split, classes=("a", "b")):
    images = torch.full((20, 3, 8, 8), 60, dtype=torch.uint8)
    images[10:] = 180
    return ImageSet("blobs", split, tuple(classes), images, torch.arange(20) // 10)


def broken(split):
    return split.missing


def nothing(split):
    return 3
'''

STAGE: dict[str, Any] = {"name": "own", "epochs": 1, "objective": {"name": "own_pieces:Noisy", "std": 0.2}}


@pytest.fixture(autouse=True)
def own_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a module of one's own, as a user has it where `clat` is started."""
    (tmp_path / "own_pieces.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_pieces", None)


def recipe(**changes: Any) -> Any:
    return build_recipe({"stages": [STAGE | changes]})


def test_a_recipe_with_one_s_own_pieces_is_read_written_and_explained() -> None:
    selection = {"rule": "critical", "k": 1, "ranking": {"name": "own_pieces:Size", "sign": -1}}
    made = recipe(treatments=[{"name": "own_pieces:Halved", "factor": 0.25}], selection=selection)
    (stage,) = made.stages
    assert (type(stage.objective).__name__, stage.objective.name, stage.objective.std) == (
        "Noisy", "own_pieces:Noisy", 0.2,
    )  # fmt: skip
    assert stage.treatments[0].factor == 0.25
    assert stage.selection.ranking.sign == -1
    assert build_recipe(tomllib.loads(recipe_toml(made))) == made
    assert build_recipe(tomllib.loads(explained_recipe(made))) == made
    assert "# Of the noise." in explained_recipe(made)
    assert recipe_data(made)["stages"][0]["objective"] == {
        "name": "own_pieces:Noisy", "label_smoothing": 0.0, "std": 0.2,
    }  # fmt: skip
    assert recipe_hash(made) != recipe_hash(recipe())
    assert recipe_hash(made) == recipe_hash(build_recipe(tomllib.loads(recipe_toml(made))))


def test_a_name_alone_and_overrides_on_the_command_line() -> None:
    named = {"rule": "critical", "ranking": "own_pieces:Size"}
    assert recipe(selection=named).stages[0].selection.ranking.sign == 1
    made = read_recipe("demo", ["--stages.0.objective", '{ name = "own_pieces:Noisy", std = 0.3 }'])
    assert made.stages[0].objective.std == 0.3


def test_a_run_of_one_s_own_pieces(kit_run: Any) -> None:
    result, built_in = kit_run
    assert result.summary["stages"][0]["name"] == "own"
    assert not torch.equal(result.model.conv2.weight, built_in.conv2.weight)
    assert '"layers": ["conv2"]' in (result.out / "metrics.jsonl").read_text()


@pytest.fixture
def kit_run(tmp_path: Path) -> Any:
    from helpers import runs

    selection = {"rule": "critical", "k": 1, "every": 0, "ranking": {"name": "own_pieces:Size"}, "num_samples": 8}
    stage = STAGE | {"selection": selection, "treatments": [{"name": "own_pieces:Halved", "factor": 0.5}]}
    made = build_recipe(
        {
            "stages": [stage], "eps": "0.05", "batch_size": 16, "data": {"heldout": 16, "pad": 1},
            "monitor": {"steps": 1, "num_samples": 8},
            "evaluation": {"protocol": "own_pieces:UP", "num_samples": 8},
            "engine": {"device": "cpu", "precision": "32"},
        }
    )  # fmt: skip
    result = clat.train(made, tmp_path / "run", model=runs.tiny(), data=runs.data(), quiet=True)
    assert clat.resume(tmp_path / "run", model=runs.tiny(), data=runs.data(), quiet=True).out == result.out
    assert result.evaluations["last"]["protocol"]["name"] == "up"
    return result, runs.tiny()


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"name": "own_pieces:Noisy", "sdt": 1}, r"unknown field 'stages.own.objective.sdt'; did you mean 'std'"),
        ({"name": "own_pieces:Noisy", "std": "wide"}, r"stages.own.objective.std: input should be a valid number"),
        ({"name": "own_pieces:Noisy", "std": float("nan")}, r"stages.own.objective.std: input should be a finite"),
        ({"name": "own_pieces:Noisy", "std": True}, r"stages.own.objective.std: expected no truth value"),
        ({"name": "own_pieces:Noisy", "std": -1}, r"stages.own.objective: std is -1.0: expected more than 0"),
        ({"name": "own_pieces:Noisi"}, r"no attribute 'Noisi'; check the name after the colon"),
        ({"name": "absent_module:Noisy"}, r"no module absent_module in the current folder"),
        (
            {"name": "own_pieces:Halved"},
            r"'own_pieces:Halved' is the class Halved, expected .* clat.objectives.Objective",
        ),
        ({"name": "own_pieces:corner"}, r"'own_pieces:corner' is a function, expected a class that inherits"),
        ({"name": "own_pieces:Undecorated"}, r"no dataclass: write @dataclass\(frozen=True, kw_only=True\)"),
        ({"name": "noisy"}, r"unknown name 'noisy'"),
    ],
)
def test_a_plugin_that_is_not_there_or_not_of_its_kind(objective: dict[str, Any], says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        recipe(objective=objective)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_none_is_told(tmp_path: Path) -> None:
    from helpers import runs

    made = runs.recipe(
        stages=(build_recipe({"stages": [STAGE | {"objective": {"name": "own_pieces:Bare"}}]}).stages[0],)
    )
    with pytest.raises(
        ClatError, match=r"objective 'own_pieces:Bare' costs a Tensor, expected clat.objectives.Loss"
    ):
        clat.train(made, tmp_path / "run", model=runs.tiny(), data=runs.data(), quiet=True)


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("noisy", "own_pieces:Noisy", "clat.objectives"),
        EntryPoint("pgd-at", "own_pieces:Noisy", "clat.objectives"),
        EntryPoint("up", "own_pieces:UP", "clat.protocols"),
        EntryPoint("blobs", "own_pieces:blobs", "clat.data_readers"),
        EntryPoint("corner", "own_pieces:corner", "clat.attacks"),
        EntryPoint("gone", "own_pieces:Gone", "clat.objectives"),
    ]
    monkeypatch.setattr(
        plugins,
        "entry_points",
        lambda group, name: [one for one in points if (one.group, one.name) == (group, name)],
    )
    made = recipe(objective={"name": "noisy", "std": 0.3})
    assert (made.stages[0].objective.name, made.stages[0].objective.std) == ("noisy", 0.3)
    assert build_recipe(tomllib.loads(recipe_toml(made))) == made
    assert isinstance(recipe(objective={"name": "pgd-at"}).stages[0].objective, PgdAT), (
        "what is built in goes first"
    )
    assert clat.evaluation.find_protocol("up").attacks[0].label == "corner"
    assert clat.evaluation.AttackSpec(attack="corner").label == "corner"
    assert len(load_split("blobs", "test")) == 20
    with pytest.raises(
        ClatError, match=r"'gone' \(entry point own_pieces:Gone\): module 'own_pieces' has no attribute"
    ):
        recipe(objective={"name": "gone"})


def test_readers_of_one_s_own(tmp_path: Path) -> None:
    assert load_split("own_pieces:blobs", "test").class_names == ("a", "b")
    assert load_split("own_pieces:blobs", "test", classes=("x", "y")).class_names == ("x", "y")
    for name, options, says in (
        ("own_pieces:blobs", {"image_size": 4}, "unknown argument 'image_size' of the data reader"),
        ("own_pieces:broken", {}, "data reader 'own_pieces:broken' failed on 'train', AttributeError"),
        ("own_pieces:nothing", {}, "gives a int, expected a clat.ImageSet"),
        ("own_pieces:UP", {}, "is a Protocol, expected a function"),
        ("own_pieces:absent", {}, "no attribute 'absent'"),
    ):
        with pytest.raises(ClatError, match=says):
            load_split(name, "train", **options)


def test_attacks_of_one_s_own(images: torch.Tensor, labels: torch.Tensor, tiny_resnet: Any) -> None:
    def evaluated(x: torch.Tensor, y: torch.Tensor, attack: str, **more: Any) -> Any:
        spec = clat.evaluation.AttackSpec(attack=attack, **more.pop("spec", {}))
        protocol = clat.evaluation.Protocol(name="own", attacks=(spec,))
        return clat.evaluate(model, x, y, protocol=protocol, eps="0.1", keep_examples=True, **more)

    model = tiny_resnet()
    labels = model(images).argmax(1)
    found = evaluated(images, labels, "own_pieces:corner", spec={"settings": {"share": 0.5}})
    assert torch.equal(found.x_adv, (images + 0.05).clamp(0, 1))
    assert torch.equal(found.robust, model(found.x_adv).argmax(1) == labels)
    assert list(found.per_attack) == ["corner"]
    assert found.protocol.hash != clat.evaluation.find_protocol("own_pieces:UP").hash
    whole = evaluated(images, labels, "own_pieces:noise")
    part = evaluated(images[2:], labels[2:], "own_pieces:noise", ids=torch.arange(2, 6), batch_size=3)
    assert torch.equal(whole.x_adv[2:], part.x_adv), "what is drawn belongs to the image"
    for attack, says in (
        ("own_pieces:far", "returns images outside of the ball of linf radius 0.1"),
        ("own_pieces:flat", r"returns shape \(6, 192\), expected images of shape \(6, 3, 8, 8\)"),
    ):
        with pytest.raises(ClatError, match=says):
            evaluated(images, labels, attack)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_attack_of_one_s_own_sees_the_network_itself(
    images: torch.Tensor, labels: torch.Tensor, tiny_resnet: Any, precision: str
) -> None:
    model = tiny_resnet()
    labels = model(images).argmax(1)
    protocol = Protocol(name="parts", attacks=(AttackSpec(attack="own_pieces:parts"),))
    found = clat.evaluate(
        model, images, labels, protocol=protocol, eps="0.1", precision=precision, keep_examples=True
    )
    parts = find_own_attack("own_pieces:parts")
    assert torch.equal(found.x_adv, parts(model, images, labels, eps=0.1))
    assert "forward" not in vars(model)


def test_a_function_in_place_of_its_name_is_told_how_to_be_named() -> None:
    corner = find_own_attack("own_pieces:corner")
    with pytest.raises(ClatError, match=r"is the function corner, .*'__main__:function' .here 'own_pieces:corner'"):
        AttackSpec(attack=corner)  # type: ignore[arg-type]
    with pytest.raises(ClatError, match="once it stands at the top of a module"):
        AttackSpec(attack=lambda model, x, y, *, eps: x)  # type: ignore[arg-type]


def test_a_function_of_a_script_is_named_by_main(monkeypatch: pytest.MonkeyPatch) -> None:
    corner = find_own_attack("own_pieces:corner")
    monkeypatch.setattr(sys.modules["__main__"], "mine", corner, raising=False)
    assert AttackSpec(attack="__main__:mine").label == "mine"


def test_a_changed_attack_does_not_keep_its_verdicts(
    images: torch.Tensor, labels: torch.Tensor, tiny_resnet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing_attack.py"
    module.write_text("def stay(model, x, y, *, eps):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    protocol = Protocol(name="stay", attacks=(AttackSpec(attack="changing_attack:stay"),))

    def evaluated() -> Any:
        return clat.evaluate(
            tiny_resnet(), images, labels, protocol=protocol, eps="1/255", state=tmp_path / "state"
        ).to_dict()

    first = evaluated()
    assert evaluated()["attack_sources"] == first["attack_sources"]
    assert first["protocol"] == evaluated()["protocol"]
    module.write_text(module.read_text().replace("return x", "return (x + eps).clamp(0, 1)"))
    with pytest.raises(ClatError, match=r"belongs to another evaluation .code of changing_attack:stay "):
        evaluated()
    module.unlink()
    assert source_digest("changing_attack:stay") is None
    assert PROTOCOLS["cr"].attack_sources() == {}


@pytest.mark.parametrize(
    ("attack", "settings", "says"),
    [
        (
            "own_pieces:corner",
            {"shear": 1},
            "unknown setting 'shear' of the attack 'own_pieces:corner'; did you mean 'share'",
        ),
        (
            "own_pieces:corner",
            {"share": "all"},
            "share of the attack 'own_pieces:corner': input should be a valid number",
        ),
        ("own_pieces:UP", None, "attack 'own_pieces:UP' is a Protocol, expected a function"),
        ("own_pieces:broken", None, "takes 1 arguments by place"),
        ("own_pieces:absent", None, "no attribute 'absent'"),
        ("pgd", {"share": 1}, "attack 'pgd' has no setting 'settings'"),
        ("pdg", None, "unknown attack 'pdg'; did you mean 'pgd'"),
    ],
)
def test_attacks_that_are_none(attack: str, settings: Any, says: str) -> None:
    with pytest.raises(ClatError, match=says):
        clat.evaluation.AttackSpec(attack=attack, settings=settings)


def test_an_attacks_function_is_a_protocol_of_its_own() -> None:
    found = clat.evaluation.find_protocol("own_pieces:corner")
    assert found == clat.evaluation.Protocol(
        name="corner", attacks=(clat.evaluation.AttackSpec(attack="own_pieces:corner"),)
    )


def test_protocols_that_are_none() -> None:
    with pytest.raises(ClatError, match=r"'own_pieces:Noisy' is a class, expected a clat.evaluation.Protocol or"):
        clat.evaluation.find_protocol("own_pieces:Noisy")
    with pytest.raises(ClatError, match="unknown protocol 'pgd20'; did you mean 'pgd-20'"):
        clat.evaluation.find_protocol("pgd20")
