"""Our attacks against the official AutoAttack code and torchattacks, on robust networks trained by others."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.attacks import pgd
from clat.attacks.apgd import ApgdSearch
from clat.core.units import parse_size
from clat.data import load_split
from clat.evaluation import evaluate
from clat.network import modes

NORMS = {"linf": "Linf", "l2": "L2"}
BUDGETS = [("linf", "2/255"), ("linf", "8/255"), ("l2", "0.25")]


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


@pytest.fixture(scope="module")
def test_images(foreign: ModuleType) -> tuple[Tensor, Tensor]:
    part = load_split("cifar10", "test", resident_limit=0, cache=False).take(100).load()
    assert isinstance(part.images, Tensor)
    return part.images.float() / 255, part.labels


@pytest.fixture
def quiet() -> Iterator[None]:
    """The official code logs much and seeds the global random state."""
    logging.disable(logging.CRITICAL)
    with torch.random.fork_rng(devices=[]):
        yield
    logging.disable(logging.NOTSET)


def official_robust(model: nn.Module, x: Tensor, y: Tensor, attack: str, norm: str, eps: str) -> Tensor:
    from pyautoattack import AutoAttack

    official = AutoAttack(
        model, norm=NORMS[norm], eps=float(parse_size(eps, norm=norm)), version="custom", attacks=[attack],
        device="cpu", seed=0,
    )  # fmt: skip
    official.apgd.n_restarts = 1
    official.apgd_targeted.n_target_classes = 9
    _, found = official.run_standard_evaluation(x, y, batch_size=len(x))
    return found == y


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t"])
@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
@pytest.mark.parametrize("name", ["cnn_a", "resnet4b"])
def test_the_verdicts_of_the_official_code(
    name: str, norm: str, eps: str, attack: str, foreign: ModuleType, test_images: tuple[Tensor, Tensor]
) -> None:
    """Each draws random starts of its own, so verdicts at the boundary may differ: on one image at most, net, and
    98 % of them agree."""
    pytest.importorskip("pyautoattack")
    count = {"apgd-ce": 100, "apgd-t": 60}[attack]
    model, x, y = foreign.foreign_network(name), test_images[0][:count], test_images[1][:count]
    theirs = official_robust(model, x, y, attack, norm, eps)
    ours = evaluate(model, x, y, protocol=attack, eps=eps, norm=norm, batch_size=100).robust
    assert (ours == theirs).double().mean() >= 0.98
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 1
    assert 0.05 * count < ours.sum() < 0.7 * count


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("l2", 0.25)])
def test_apgd_from_the_same_start_takes_the_official_steps(
    norm: str, eps: float, loss: str, foreign: ModuleType, test_images: tuple[Tensor, Tensor]
) -> None:
    """In float64, so that rounding does not part the two: the same verdicts, and where no step fools, the same best
    point and loss after 40 steps."""
    base = pytest.importorskip("pyautoattack.autopgd_base")
    model = foreign.foreign_network("cnn_a").double()
    x, y = test_images[0][:16].double(), test_images[1][:16]
    with torch.no_grad():
        known = model(x).argmax(1) == y
    x, y = x[known], y[known]
    search = ApgdSearch(model, eps, norm=norm, steps=40, loss=loss, target=2)
    with modes.attack_mode(model):
        state = search.start(x, y, torch.arange(len(x)))
        start = state["point"].clone()
        while not state["done"].all():
            search.step(state)
    official = (base.APGDAttack_targeted if loss == "dlr-targeted" else base.APGDAttack)(
        model, norm=NORMS[norm], eps=eps, n_iter=40, device="cpu", seed=0
    )
    official.init_hyperparam(x)
    official.loss, official.y_target = loss, state["target"]
    best, right, value, _ = official.attack_single_run(x, y, x_init=start)
    with torch.no_grad():
        withstood = model(state["adv"]).argmax(1) == y
    assert torch.equal(withstood, right.bool())
    assert withstood.sum() > 3
    torch.testing.assert_close(state["best_value"][withstood], value[withstood], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(state["adv"][withstood], best[withstood], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("norm", "eps", "steps"), [("linf", 2 / 255, 1), ("linf", 8 / 255, 20), ("l2", 0.25, 10)])
def test_pgd_from_the_same_start_is_that_of_torchattacks(
    norm: str, eps: float, steps: int, foreign: ModuleType, test_images: tuple[Tensor, Tensor]
) -> None:
    """In float64: in float32 the sign of a gradient that is nearly zero is up to rounding."""
    torchattacks: Any = pytest.importorskip("torchattacks")
    model = foreign.foreign_network("cnn_a").double()
    x, y = test_images[0][:32].double(), test_images[1][:32]
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    expected = kind(model, eps=eps, alpha=eps / 4, steps=steps, random_start=False)(x, y)
    found = pgd(model, x, y, eps=eps, alpha=eps / 4, steps=steps, norm=norm, random_start=False)
    assert (expected - x).abs().max() > eps / 20
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_weights_are_where_they_are_looked_for(foreign: ModuleType) -> None:
    assert foreign.weights_folder() == Path(os.environ["CLAT_DATA_DIR"]).parent / "weights"
