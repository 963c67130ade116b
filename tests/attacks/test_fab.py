"""FAB against closed forms on linear models and against the official code on a real network."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.attacks.fab import FabSearch, fab
from clat.attacks.search import run_search
from clat.core.errors import ClatError
from clat.data import load_split
from clat.models import Normalized
from clat.network.modes import attack_mode

ORDER = {"linf": torch.inf, "l2": 2}
DUAL = {"linf": 1, "l2": 2}
SHAPE = (3, 4, 4)


class Linear(nn.Module):
    """z = W x + b, each row's arithmetic by itself, so that a batch changes no bit."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return torch.stack([(x.flatten(1) * row).sum(1) for row in self.weight], dim=1) + self.bias


def inner_images(n: int = 12, seed: int = 0) -> Tensor:
    """Far enough from 0 and 1 for the box not to matter."""
    return 0.4 + 0.2 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def linear(classes: int, seed: int = 1) -> tuple[Linear, Tensor, Tensor]:
    """A linear model, images, and its labels on them; the boundaries lie within about 0.1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 48, generator=generator)
    x = inner_images()
    model = Linear(weight, -(weight @ x.flatten(1).mean(0)))
    return model, x, model(x).argmax(1)


def distances(model: Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """To each class's boundary, (N, K), infinite for the class itself."""
    with torch.no_grad():
        logits = model(x)
        gap = logits.gather(1, y[:, None]) - logits
        slope = (model.weight[y][:, None] - model.weight).norm(DUAL[norm], dim=2)
        return torch.where(slope > 0, gap / slope, torch.inf)


def length(adv: Tensor, x: Tensor, norm: str) -> Tensor:
    return (adv.double() - x.double()).flatten(1).norm(ORDER[norm], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("classes", "target"), [(2, None), (2, 1), (5, None)])
def test_linear_minimal_distance(norm: str, classes: int, target: int | None) -> None:
    model, x, y = linear(classes)
    adv = fab(model, x, y, norm=norm, target=target, steps=20)
    assert (model(adv).argmax(1) != y).all()
    ratio = length(adv, x, norm) / distances(model, x, y, norm).amin(1)
    assert ratio.min() >= 1 - 1e-3
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [1, 2, 3])
def test_targeted_takes_the_nearest_boundary_to_that_class(norm: str, target: int) -> None:
    """Rivals that look at pixels of their own: on the way to one the others do not move."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.zeros(4, 48)
    for rival in (1, 2, 3):
        weight[rival, 16 * (rival - 1) : 16 * rival] = 1 + torch.rand(16, generator=generator)
    x = inner_images()
    own = weight @ x.flatten(1).mean(0)
    model = Linear(weight, torch.tensor([0.0, -1.0, -2.0, -3.0]) - own)
    y = torch.zeros(len(x), dtype=torch.int64)
    ranked = model(x).argsort(1, descending=True)
    assert (ranked[:, 0] == 0).all()
    adv = fab(model, x, y, norm=norm, target=target, steps=20)
    assert torch.equal(model(adv).argmax(1), ranked[:, target])
    expected = distances(model, x, y, norm).gather(1, ranked[:, target : target + 1]).squeeze(1)
    ratio = length(adv, x, norm) / expected
    assert ratio.min() >= 1 - 1e-3
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pixels_at_the_end_of_the_range_cannot_help(norm: str) -> None:
    """Half of the pixels are at the side that the boundary lies on; the rest has to go the whole way."""
    generator = torch.Generator().manual_seed(3)
    slope = torch.randn(48, generator=generator)
    stuck = torch.arange(48) < 24
    x = torch.where(stuck, (slope > 0).float(), 0.5).expand(4, 48).reshape(4, *SHAPE)
    model = Linear(torch.stack([torch.zeros(48), slope]), torch.tensor([0.0, -float(slope @ x[0].flatten()) - 0.5]))
    adv = fab(model, x, torch.zeros(4, dtype=torch.int64), norm=norm, target=1, steps=20)
    assert ((adv >= 0) & (adv <= 1)).all()
    ratio = length(adv, x, norm) / (0.5 / slope[~stuck].norm(DUAL[norm]).item())
    assert ratio.min() >= 1 - 1e-3
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_eps_only_examples_inside_exactly_count(norm: str) -> None:
    model, x, y = linear(5)
    nearest = distances(model, x, y, norm).amin(1)
    eps = float(nearest.median())
    adv = fab(model, x, y, norm=norm, eps=eps, steps=20)
    fooled = model(adv).argmax(1) != y
    assert fooled.any()
    assert not fooled.all()
    assert fooled[nearest * 1.05 <= eps].all()
    assert (length(adv, x, norm) <= eps).all()
    assert torch.equal(adv[~fooled], x[~fooled])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounding_neither_lets_an_example_out_nor_loses_it(norm: str) -> None:
    """eps is the length of a found example less the last bits: it counts once it is put inside."""
    model, x, y = linear(2)
    first = fab(model, x, y, norm=norm, target=1, steps=1)
    for i in range(len(x)):
        eps = float(length(first, x, norm)[i]) * (1 - 1e-7)
        adv = fab(model, x[i : i + 1], y[i : i + 1], norm=norm, target=1, eps=eps, steps=1)
        assert model(adv).argmax(1) != y[i]
        assert length(adv, x[i : i + 1], norm) <= eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [None, 2])
def test_leaving_early_does_not_change_the_verdict(
    norm: str, target: int | None, tiny_resnet: Callable[[], nn.Module], images: Tensor
) -> None:
    model = tiny_resnet()
    with torch.no_grad():
        y = model(images).argmax(1)
    full = length(fab(model, images, y, norm=norm, target=target, steps=15), images, norm)
    eps = float(full.sort().values[2:4].mean())
    adv = fab(model, images, y, norm=norm, target=target, steps=15, eps=eps)
    with torch.no_grad():
        assert torch.equal(model(adv).argmax(1) != y, (full > 0) & (full <= eps))  # 0 where none was found


@pytest.mark.parametrize("eps", [None, 0.02])
@pytest.mark.parametrize("restart", [0, 1])
@pytest.mark.parametrize("target", [None, 1])
def test_a_sample_does_not_depend_on_its_batch(eps: float | None, restart: int, target: int | None) -> None:
    model, x, y = linear(5)
    ids = torch.arange(len(x)) + 100
    search = FabSearch(model, eps, steps=12, restart=restart, target=target)
    with attack_mode(model):
        whole = run_search(search, x, y, ids)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        for size in (1, 5):
            parts = run_search(search, x[order], y[order], ids[order], batch_size=size)
            assert torch.equal(parts, whole[order])
    assert not torch.equal(whole, x)


def test_restarts_begin_elsewhere_and_repeat() -> None:
    model, x, y = linear(5)
    first, again, other = (fab(model, x, y, steps=2, restart=restart, seed=3) for restart in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, fab(model, x, y, steps=2))
    for norm in ("linf", "l2"):
        ids = torch.arange(len(x))
        state = FabSearch(model, 0.1, norm, restart=1).start(x, y, ids)
        torch.testing.assert_close(length(state["point"], x, norm).float(), torch.full((len(x),), 0.05))


def test_wrong_from_the_start_is_left_alone() -> None:
    model, x, y = linear(5)
    wrong = (y + 1) % 5
    assert torch.equal(fab(model, x, wrong, steps=3), x)
    assert torch.equal(fab(model, x, wrong, steps=3, eps="8/255"), x)
    assert fab(model, x[:0], y[:0]).shape == (0, *SHAPE)


def test_a_flat_model_has_no_boundary() -> None:
    x, y = inner_images(), torch.zeros(12, dtype=torch.int64)
    for norm in ("linf", "l2"):
        assert torch.equal(fab(Linear(torch.zeros(3, 48), torch.tensor([1.0, 0, 0])), x, y, steps=3, norm=norm), x)


class Slope(torch.autograd.Function):
    """The identity, whose derivative is something else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(gradient, ctx.slope), None


class Broken(nn.Module):
    """Fine logits that speak for `label`; the last sample's gradient is `slope` in one pixel."""

    def __init__(self, label: int, slope: float) -> None:
        super().__init__()
        self.label, self.slope = label, slope

    def forward(self, x: Tensor) -> Tensor:
        z = 0.01 * x.flatten(1)[:, :3] + torch.eye(3)[self.label]
        last = Slope.apply(x[-1:, 0, 0, 0], self.slope)
        return z + 0.01 * torch.cat([torch.zeros(len(x) - 1), last])[:, None] * torch.tensor([1.0, 0, 0])


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("eps", [None, "8/255"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_not_finite_is_not_robustness(norm: str, eps: str | None, target: int | None, label: int) -> None:
    x, y = inner_images(3), torch.full((3,), label)
    nothing = Linear(torch.full((3, 48), torch.nan), torch.zeros(3))
    for model in (Broken(label, torch.nan), Broken(label, torch.inf), nothing):
        with pytest.raises(ClatError, match="gradient is not finite"):
            fab(model, x, y, steps=3, norm=norm, eps=eps, target=target)


def test_no_gradient_at_all_is_not_robustness() -> None:
    model, x, y = linear(3)
    model.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
    for target in (None, 1):
        with pytest.raises(ClatError, match="no gradient towards its input"):
            fab(model, x, y, steps=2, target=target)


def test_a_step_is_two_forwards() -> None:
    model, x, y = linear(5)
    model.forwards = 0
    fab(model, x, y, steps=7, target=1)
    assert model.forwards == 1 + 2 * 7


def test_leaves_no_trace(tiny_resnet: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet().train()
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    given = images.clone()
    for target in (None, 1):
        fab(model, images, labels, eps="8/255", steps=2, target=target, restart=1)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad is (p is not frozen) for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, given)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"steps": 0}, "steps is 0: expected at least 1"),
        ({"target": 0}, "target is 0"),
        ({"target": 5}, "the model has 5 classes"),
        ({"alpha_max": 1.5}, "alpha_max is 1.5"),
        ({"eta": 0.9}, "eta is 0.9"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"eps": 8}, "8/255"),
    ],
)
def test_bad_settings(setting: dict[str, Any], message: str) -> None:
    model, x, y = linear(5)
    with pytest.raises(ClatError, match=message):
        fab(model, x, y, **setting)


# The official code as oracle, on a network that others trained against an l-inf adversary.


@pytest.fixture(scope="module")
def network() -> nn.Module:
    path = Path(os.environ.get("CLAT_DATA_DIR", "/nonexistent")) / ".." / "weights" / "sdp_cifar_cnn_a_adv.model"
    if not path.exists():
        pytest.skip("needs CLAT_DATA_DIR with cifar10, and the weights folder beside it")
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    state = torch.load(path, weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return Normalized(net, (0.485, 0.456, 0.406), 0.225).eval().requires_grad_(False)


def right_images(network: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Those of the first n test images that the network gets right."""
    part = load_split("cifar10", "test", resident_limit=0, cache=False).take(n).load()
    assert isinstance(part.images, Tensor)
    x, y = part.images.float() / 255, part.labels
    right = network(x).argmax(1) == y
    return x[right], y[right]


def official(network: nn.Module, norm: str, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("pyautoattack.fab_pt")
    name = {"linf": "Linf", "l2": "L2"}[norm]
    return module.FABAttack_PT(network, norm=name, device=torch.device("cpu"), **settings)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [None, 1, 3])
def test_official_distances(network: nn.Module, norm: str, target: int | None) -> None:
    x, y = right_images(network, 16)
    steps = 10 if target is None else 20
    ours = length(fab(network, x, y, norm=norm, target=target, steps=steps), x, norm)
    oracle = official(network, norm, n_iter=steps)
    oracle.target_class = None if target is None else target + 1
    theirs = length(oracle.attack_single_run(x, y, is_targeted=target is not None), x, norm)
    torch.testing.assert_close(ours.mean(), theirs.mean(), rtol=0.01, atol=0)
    assert ((ours / theirs - 1).abs() < 0.01).float().mean() >= 0.8


@pytest.mark.slow  # the official code takes half a minute and more
@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("linf", 8 / 255), ("l2", 0.25)])
def test_official_verdicts(network: nn.Module, norm: str, eps: float) -> None:
    x, y = right_images(network, 60)
    robust = torch.ones(len(y), dtype=torch.bool)
    for target in range(1, 10):
        rows = robust.nonzero().squeeze(1)
        adv = fab(network, x[rows], y[rows], eps=eps, norm=norm, target=target)
        robust[rows] = network(adv).argmax(1) == y[rows]
    adv = official(network, norm, eps=eps, targeted=True, n_target_classes=9).perturb(x, y)
    theirs = network(adv).argmax(1) == y
    assert abs(int(robust.sum()) - int(theirs.sum())) <= 0.01 * 60
    assert (robust == theirs).float().mean() >= 0.98
