"""Constraint relaxation: linear networks in closed form, and the program that each image goes through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clat.attacks.ball import Ball
from clat.attacks.constraint_relaxation import CYCLE, ConstraintRelaxationSearch, constraint_relaxation
from clat.attacks.search import run_search
from clat.core.errors import ClatError
from clat.network import modes

Build = Callable[[], nn.Module]


class Linear(nn.Module):
    """Logits scale * (<w_k, x> + b_k), in float64 and rounded, so that none depends on the batch."""

    def __init__(self, classes: int = 5, shape: tuple[int, ...] = (3, 4, 4), scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn((classes, *shape), generator=generator).double())
        self.b = nn.Parameter(torch.zeros(classes).double())
        self.scale = scale
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        z = self.scale * ((x.double()[:, None] * self.w).flatten(2).sum(2) + self.b)
        return z + ((z * 2**30).round() / 2**30 - z).detach()

    def distances(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        """To the boundary with each class, (N, K); infinite to the image's own."""
        with torch.no_grad():
            z = self(x) / self.scale
            apart = (self.w[y][:, None] - self.w).flatten(2)
            length = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
            return ((z.gather(1, y[:, None]) - z) / length).scatter(1, y[:, None], torch.inf)


def grey(count: int, shape: tuple[int, ...] = (3, 4, 4)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(2)) * 0.2 + 0.4


def labelled(model: Linear, count: int = 40) -> tuple[Tensor, Tensor]:
    x = grey(count)
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 4, 6])
def test_fooled_exactly_where_the_nearest_boundary_is_within_eps(classes: int, norm: str) -> None:
    """With all wrong classes as targets, and logits so small that no image is given up."""
    model = Linear(classes, scale=0.1)
    x, y = labelled(model, 20)
    nearest = model.distances(x, y, norm).amin(1)
    eps = nearest.median().item()
    found = constraint_relaxation(model, x, y, eps=eps, norm=norm, targets=classes - 1, steps=60, rounds=1)
    with torch.no_grad():
        fooled = model(found).argmax(1) != y
    assert fooled[nearest * 1.01 < eps].all()
    assert not fooled[nearest > eps].any()
    assert 5 < fooled.sum() < 15


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1e-4, 8 / 255, 1.0])
def test_inside_exactly(norm: str, eps: float, tiny_resnet: Build, images: Tensor) -> None:
    images = images.clone()
    images[0], images[1] = 0, 1
    model = tiny_resnet()
    with torch.no_grad():
        y = model(images).argmax(1)
    adv = constraint_relaxation(model, images, y, eps=eps, norm=norm, steps=30, rounds=1)
    delta = (adv.double() - images.double()).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert length.max() <= eps
    assert length.min() > 0
    assert adv.min() >= 0
    assert adv.max() <= 1


def searched(model: Linear, x: Tensor, y: Tensor, eps: float, **settings: int) -> None:
    model.seen.clear()
    constraint_relaxation(model, x, y, eps=eps, **settings)


def test_what_is_clearly_out_of_reach_is_given_up_after_two_parts_of_a_cycle() -> None:
    """Ten steps and a look to find the targets; for each 20 forward and backward passes, and looks at ten
    projected points."""
    model = Linear(scale=100)
    x, y = labelled(model, 1)
    searched(model, x, y, 1e-4)
    assert len(model.seen) == 11 + 3 * (20 + 10)


def test_what_is_nearly_within_reach_is_searched_for_in_all_cycles_and_rounds() -> None:
    model = Linear(classes=2, scale=1)
    x, y = labelled(model, 1)
    eps = model.distances(x, y, "linf").amin().item() * (1 - 1e-4)
    searched(model, x, y, eps, targets=1)
    assert len(model.seen) == 11 + 5 * 5 * (30 + 10)
    searched(model, x, y, eps, targets=1, steps=60, rounds=2)
    assert len(model.seen) == 11 + 2 * 2 * (30 + 10)


def test_radii_and_steps_of_a_cycle() -> None:
    """The network's sign never changes, so that every radius is reached: eps (1 + s) within two steps."""
    model = Linear(classes=2, scale=1e-3)
    x, y = labelled(model, 1)
    eps = model.distances(x, y, "linf").amin().item() * 0.9
    searched(model, x, y, eps, targets=1, rounds=1)
    lengths = [float((point - x).abs().max()) / eps for point in model.seen]
    seeking, rest = lengths[:11], lengths[11:]
    assert max(seeking) == pytest.approx(1, abs=1e-5)
    for cycle, relaxation in enumerate((0.5, 0.25, 0.125, 0.0625, 0.05)):
        part = rest[cycle * 40 : (cycle + 1) * 40]
        # A step, and a look at the projected point, ten times; then twenty steps in the ball.
        relaxed, looks, inside = part[2:20:2], part[1:20:2], part[21:]
        assert max(relaxed) == pytest.approx(1 + relaxation, abs=1e-5)
        assert max(looks) == pytest.approx(1, abs=1e-5)
        assert max(inside) == pytest.approx(1, abs=1e-5)
    corner = model.seen[11 + 40 - 11] - x
    shaken = model.seen[11 + 40 - 10] - x
    toward = corner.sign()
    assert ((shaken * toward).flatten() / eps).min() >= 0 - 1e-5, "shrunk to a half, and noise of a half"
    assert (shaken - corner).abs().max() > 0.3 * eps


def test_the_targets_are_the_most_likely_wrong_classes_after_the_ascent() -> None:
    model = Linear(6)
    x, y = labelled(model, 8)
    search = ConstraintRelaxationSearch(model, 1e-3, targets=2)
    with modes.attack_mode(model):
        state = search.start(x, y, torch.arange(8))
        for _ in range(11):
            assert (state["pair"] == -1).all()
            search.step(state)
        assert state["pair"].tolist() == [0] * 8
        assert (state["t"] == 0).all()
        with torch.no_grad():
            ranked = model(state["adv"]).argsort(dim=1, descending=True)
    assert torch.equal(ranked[:, 0], y)
    assert torch.equal(state["targets"], ranked[:, 1:3])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_fares_alike_in_any_batch(norm: str) -> None:
    model = Linear(5)
    x, y = labelled(model, 7)
    eps = model.distances(x, y, norm).amin(1).median().item()
    search = ConstraintRelaxationSearch(model, eps, norm, targets=2, steps=CYCLE, rounds=2)
    with modes.attack_mode(model):
        together = run_search(search, x, y)
        for size in (1, 3):
            assert torch.equal(run_search(search, x, y, batch_size=size), together)
        some = torch.tensor([6, 2])
        assert torch.equal(run_search(search, x[some], y[some], some), together[some])
        other = ConstraintRelaxationSearch(model, eps, norm, targets=2, steps=CYCLE, rounds=2, seed=1)
        assert not torch.equal(run_search(other, x, y), together)
        fooled = model(together).argmax(1) != y
    assert 0 < fooled.sum() < 7


def test_a_point_outside_the_ball_counts_only_once_it_is_projected() -> None:
    """The boundary lies beyond eps but within 1.5 eps, where relaxed steps get to."""
    model = Linear(classes=2, scale=0.1)
    x, y = labelled(model, 8)
    for row in range(8):
        one, label = x[row : row + 1], y[row : row + 1]
        eps = model.distances(one, label, "linf").amin().item() / 1.2
        model.seen.clear()
        adv = constraint_relaxation(model, one, label, eps=eps, targets=1, steps=30, rounds=1)
        assert max(float((point - one).abs().max()) for point in model.seen) > 1.3 * eps
        with torch.no_grad():
            assert torch.equal(model(adv).argmax(1), label)


def test_leaves_no_trace_and_inputs_alone(tiny_resnet: Build, images: Tensor) -> None:
    model, kept = tiny_resnet().train(), images.clone()
    random = torch.get_rng_state()
    constraint_relaxation(model, images, torch.zeros(6, dtype=torch.int64), eps="8/255", steps=3, rounds=1)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_images_give_no_examples() -> None:
    model = Linear()
    empty = constraint_relaxation(model, torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64), eps=0.1)
    assert empty.shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"targets": 0}, "targets is 0: expected at least 1"),
        ({"targets": 5}, "targets is 5: the model has 5 classes, one of them right"),
        ({"steps": 0}, "steps is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    model = Linear()
    x, y = labelled(model, 2)
    with pytest.raises(ClatError, match=message):
        constraint_relaxation(model, x, y, **{"eps": 1e-3, **settings})  # type: ignore[arg-type]


class Bent(Linear):
    """Logits or gradients that are not finite."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        if self.how == "no gradient":
            return z.detach()
        zero = (x - x).flatten(1).sum(1, keepdim=True)
        return z + zero.sqrt()  # 0, with an infinite gradient times nothing


@pytest.mark.parametrize(
    ("how", "message"),
    [("nan gradient", "not finite"), ("no gradient", "no gradient towards its input")],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_broken_does_not_pass_for_robust(how: str, message: str, norm: str) -> None:
    x = grey(3)
    with pytest.raises(ClatError, match=message):
        constraint_relaxation(Bent(how), x, torch.tensor([0, 1, 2]), eps=1e-6, norm=norm)


def test_radius_of_the_start() -> None:
    """Uniform in the ball, each pair from a point of its own."""
    x, y, ids = torch.full((400, 1, 2, 2), 0.5), torch.zeros(400, dtype=torch.int64), torch.arange(400)
    state = ConstraintRelaxationSearch(nn.Identity(), 0.2).start(x, y, ids)
    delta = (state["point"] - x).flatten(1) / 0.2
    assert delta.mean(0).abs().max() < 0.15
    assert ((delta + 1) / 2 < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.05)
    ball = Ball(x, 0.2)
    assert torch.equal(ball.project(state["point"]), state["point"])
