"""APGD on models whose best perturbation is known, its schedule, and its promises."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.attacks.apgd import APGD_LOSSES, ApgdSearch, apgd, checkpoints
from clat.attacks.search import run_search
from clat.core.errors import ClatError
from clat.network import modes

Build = Callable[[], nn.Module]


class Linear(nn.Module):
    """Logits <w_k, x> + b_k. In float64 and rounded, so that no logit depends on the batch; the gradient is w."""

    def __init__(self, classes: int, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn((classes, *shape), generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(classes, dtype=torch.float64))
        self.forwards = 0
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        self.seen.append(x.detach().clone())
        z = (x.double()[:, None] * self.w).flatten(2).sum(2) + self.b
        return z + ((z * 2**30).round() / 2**30 - z).detach()

    def margin_to(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """z_y - z_t and the gradient of z_t - z_y."""
        with torch.no_grad():
            z = self(x)
        rows = torch.arange(len(x))
        return z[rows, y] - z[rows, target], (self.w[target] - self.w[y]).detach()


def grey(count: int, *shape: int) -> Tensor:
    """Far enough from 0 and 1 that only the ball limits the attack."""
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(7)) * 0.2 + 0.4


def dual_length(w: Tensor, norm: str) -> Tensor:
    return w.flatten(1).abs().sum(1) if norm == "linf" else w.flatten(1).norm(dim=1)


def safe(model: Linear, x: Tensor, eps: float, norm: str) -> Tensor:
    """Class 0, raised until no attack can reach another class, though not so far that the cross-entropy is flat."""
    y = torch.zeros(len(x), dtype=torch.int64)
    for target in range(1, len(model.b)):
        margin, uphill = model.margin_to(x, y, torch.full_like(y, target))
        with torch.no_grad():
            model.b[0] += (eps * dual_length(uphill, norm) * 1.1 - margin).amax().clamp_min(0)
    model.seen.clear()
    return y


def median_distance(model: Linear, x: Tensor, y: Tensor, norm: str) -> float:
    with torch.no_grad():
        ranked = model(x).argsort(dim=1, descending=True)
    margin, uphill = model.margin_to(x, y, ranked[:, 1])
    return (margin / dual_length(uphill, norm)).median().item()


def test_windows_of_a_hundred_steps() -> None:
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (Croce and Hein 2020, Sec. 3.2)."""
    table = checkpoints(100)
    ends = [0] + [step for step, window in enumerate(table, 1) if window]
    assert ends == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    published = [0, 22]
    while published[-1] + max(published[-1] - published[-2] - 3, 6) <= 100:
        published.append(published[-1] + max(published[-1] - published[-2] - 3, 6))
    assert ends == published
    assert [window for window in table if window] == [later - earlier for earlier, later in pairwise(ends)]


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33, 1000])
def test_windows_of_any_number_of_steps(steps: int) -> None:
    table = checkpoints(steps)
    assert len(table) == steps
    since = 0
    for window in table:
        since += 1
        if window:
            assert window == since
            since = 0


@pytest.mark.parametrize("loss", ["ce", "margin-targeted"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 1), (1, 5, 2)])
def test_linf_optimum_of_a_linear_model(shape: tuple[int, ...], loss: str) -> None:
    """With two classes that matter the best point is a corner; the others are far below."""
    model = Linear(4, shape)
    with torch.no_grad():
        model.b += torch.tensor([0, 0, -40, -50])
    x = grey(4, *shape)
    y = safe(model, x, 0.1, "linf")
    found = apgd(model, x, y, eps=0.1, loss=loss, steps=20)
    _, uphill = model.margin_to(x, y, torch.ones_like(y))
    torch.testing.assert_close(found, x + 0.1 * uphill.sign().float(), atol=1e-7, rtol=0)


def test_l2_optimum_of_a_linear_model() -> None:
    model = Linear(4, (3, 4, 4))
    with torch.no_grad():
        model.b += torch.tensor([0, 0, -40, -50])
    x = grey(4, 3, 4, 4)
    y = safe(model, x, 0.3, "l2")
    found = apgd(model, x, y, eps=0.3, norm="l2", loss="margin-targeted")
    _, uphill = model.margin_to(x, y, torch.ones_like(y))
    best = x + 0.3 * (uphill / uphill.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).float()
    assert (found - best).flatten(1).norm(dim=1).max() < 0.3 * 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_fooled_exactly_where_the_nearest_boundary_is_within_eps(norm: str, target: int) -> None:
    """Aiming at class t succeeds if the boundary to t is within eps, and no other class's needs to be."""
    model = Linear(5, (3, 4, 4))
    x = grey(40, 3, 4, 4)
    with torch.no_grad():
        ranked = model(x).argsort(dim=1, descending=True)
    y, rival = ranked[:, 0], ranked[:, target]
    margin, uphill = model.margin_to(x, y, rival)
    distance = margin / dual_length(uphill, norm)
    others = [model.margin_to(x, y, ranked[:, k]) for k in range(1, 5)]
    nearest = torch.stack([gap / dual_length(w, norm) for gap, w in others]).amin(0)
    eps = distance.median().item()
    found = apgd(model, x, y, eps=eps, norm=norm, loss="margin-targeted", target=target)
    with torch.no_grad():
        fooled = model(found).argmax(1) != y
    slack = 1.02 if norm == "l2" else 1 + 1e-6
    assert fooled[distance * slack < eps].all()
    assert not fooled[nearest > eps].any()
    assert fooled.sum() > 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", ["8/255", 1e-4, 0.5, 1])
@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_inside_exactly(norm: str, eps: float | str, loss: str, tiny_resnet: Build, images: Tensor) -> None:
    images = images.clone()
    images[0], images[1] = 0, 1
    model = tiny_resnet()
    with torch.no_grad():
        y = model(images).argmax(1)
    found = apgd(model, images, y, eps=eps, norm=norm, loss=loss, steps=7)
    delta = (found.double() - images.double()).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert length.max() <= (8 / 255 if eps == "8/255" else float(eps))
    assert length.min() > 0
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_on_the_surface_and_steps_twice_its_radius(norm: str) -> None:
    model = Linear(2, (3, 4, 4))
    x = grey(5, 3, 4, 4)
    y = safe(model, x, 0.1, norm)
    apgd(model, x, y, eps=0.1, norm=norm, steps=3)
    delta = (model.seen[0] - x).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    torch.testing.assert_close(length, torch.full((5,), 0.1))
    assert len({tuple(row.tolist()) for row in delta}) == 5
    if norm == "linf":  # two radii along the gradient's sign end at the corner, wherever they began
        corner = x + 0.1 * (model.w[1] - model.w[0]).detach().sign().float()
        torch.testing.assert_close(model.seen[1], corner, atol=1e-6, rtol=0)


def reference(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 for one sample, l-inf, cross-entropy, with plain numbers: best point and its loss."""

    def look(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_(True)
        value = nn.functional.cross_entropy(model(point).float(), y)
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.sign()

    def inside(point: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)

    point = before = best = start
    value, direction = look(point)
    best_value, best_direction = value, direction
    size, rises, previous, at_check, halved = 2 * eps, 0, 0.0, value, True
    for t, window in enumerate(checkpoints(steps)):
        inertia = 0.25 if t else 0.0
        moved = inside(point + size * direction)
        moved = inside(point + (1 - inertia) * (moved - point) + inertia * (point - before))
        before, point = point, moved
        value, direction = look(point)
        rises, previous = rises + (value > previous), value
        if value > best_value:
            best, best_value, best_direction = point, value, direction
        if window:
            halve = rises <= 0.75 * window or (not halved and at_check >= best_value)
            if halve:
                size, point, direction = size / 2, best, best_direction
            rises, at_check, halved = 0, best_value, halve
    return best, torch.tensor(best_value)


class Curved(Linear):
    """A margin that rises and falls, so that steps overshoot and windows end in either way."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return torch.stack([z[:, 0] * 0 + 2, torch.sin(4 * z[:, 1]) + 0.3 * torch.cos(9 * z[:, 2])], 1)


def test_equals_the_algorithm_written_for_one_sample() -> None:
    model = Curved(3, (3, 4, 4))
    x, y = grey(6, 3, 4, 4).double(), torch.zeros(6, dtype=torch.int64)
    search = ApgdSearch(model, 0.1, steps=60, seed=4)
    with modes.attack_mode(model):
        state = search.start(x, y, torch.arange(6))
        starts = state["point"].clone()
        while not state["done"].all():
            search.step(state)
        for row in range(6):
            best, value = reference(model, x[row : row + 1], y[:1], 0.1, 60, starts[row : row + 1])
            torch.testing.assert_close(state["best_value"][row].float(), value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(state["adv"][row], best[0], rtol=0, atol=1e-5)
    halvings = (0.2 / state["step_size"]).log2()
    assert ((halvings > 0) & (halvings < 8)).all(), "the eight windows must not all end alike"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", sorted(APGD_LOSSES))
def test_a_sample_fares_alike_in_any_batch(norm: str, loss: str) -> None:
    model = Linear(5, (3, 4, 4))
    x = grey(11, 3, 4, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    eps = median_distance(model, x, y, norm)
    search = ApgdSearch(model, eps, norm=norm, steps=12, loss=loss)
    with modes.attack_mode(model):
        together = run_search(search, x, y)
        for size in (1, 2, 4):
            assert torch.equal(run_search(search, x, y, batch_size=size), together)
        some = torch.tensor([7, 2])
        assert torch.equal(run_search(search, x[some], y[some], some), together[some])
        starts = [search.start(x[some], y[some], numbers)["point"] for numbers in (some, some + 1)]
        assert not torch.equal(*starts)
        fooled = model(together).argmax(1) != y
    assert 0 < fooled.sum() < 11


def test_a_sample_leaves_with_the_first_example_that_fools() -> None:
    model = Linear(3, (3, 4, 4))
    x = grey(1, 3, 4, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = apgd(model, x, y, eps=0.3)
    assert torch.equal(found, model.seen[-1])
    assert all(model(point).argmax(1) == y for point in model.seen[1:-2])
    assert model.forwards < 20


def test_a_sample_that_is_done_keeps_its_example() -> None:
    """It may be stepped on until it is taken out of its batch; another example that fools must not replace it."""
    model = Linear(3, (3, 4, 4))
    x = grey(2, 3, 4, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    eps = 3 * median_distance(model, x, y, "l2")
    search = ApgdSearch(model, eps, norm="l2", loss="margin-targeted", steps=20)
    state = search.start(x, y, torch.arange(2))
    while not state["done"].any():
        search.step(state)
    done = state["done"].clone()
    kept = state["adv"].clone()
    search.step(state)
    assert (model(state["point"]).argmax(1) != y)[done].any(), "there must be another example"
    assert not torch.equal(state["point"][done], kept[done])
    assert torch.equal(state["adv"][done], kept[done])


def test_seeds_differ_and_repeat() -> None:
    model = Linear(3, (3, 4, 4))
    x = grey(2, 3, 4, 4)
    y = safe(model, x, 0.3, "l2")
    first, again, other = (apgd(model, x, y, eps=0.3, norm="l2", steps=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_leaves_no_trace(norm: str, tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model, kept = tiny_resnet().train(), images.clone()
    first = next(model.parameters())
    first.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    apgd(model, images, labels, eps="8/255", norm=norm, steps=3, loss="dlr-targeted")
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)


class Broken(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x.flatten(1)[:, :3] * 3)


@pytest.mark.parametrize(
    ("output", "settings", "message"),
    [
        (lambda z: {"scores": z}, {}, "does not return logits"),
        (lambda z: z[:, :1], {}, "a label is 1, but the model has 1 classes"),
        (lambda z: z.detach(), {}, "no gradient towards its input"),
        (lambda z: z, {"loss": "dlr-targeted"}, "needs at least 4 classes, the model has 3"),
        (lambda z: z[:, :2], {"loss": "dlr"}, "needs at least 3 classes, the model has 2"),
        (lambda z: z, {"loss": "margin-targeted", "target": 3}, "target 3 needs at least 4 classes"),
        (lambda z: z, {"target": 0}, "target is 0"),
        (lambda z: z, {"loss": "cw"}, "unknown loss 'cw'"),
        (lambda z: z, {"steps": 0}, "steps is 0"),
        (lambda z: z, {"norm": "l0"}, "unknown norm 'l0'"),
        (lambda z: z, {"eps": 8}, "did you mean 8/255"),
    ],
)
def test_refuses(output: Callable[[Tensor], Any], settings: dict[str, Any], message: str) -> None:
    x, y = grey(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ClatError, match=message):
        apgd(Broken(output), x, y, **{"eps": 0.1, **settings})


@pytest.mark.parametrize("label", [0, 1])
def test_a_gradient_that_is_nan_is_not_robustness(label: int) -> None:
    """Logits of a NaN image say class 0: with that label the sample would seem to withstand the attack."""
    model = Broken(lambda z: torch.eye(3)[torch.full((len(z),), label)] * 9 + torch.sqrt(z - z))
    with pytest.raises(ClatError, match="not finite"):
        apgd(model, grey(2, 3, 4, 4), torch.full((2,), label), eps=0.1)
