"""PGD as a search: the same steps as `pgd`, a start of the sample's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clat.attacks.ascent import ascend
from clat.attacks.ball import Ball
from clat.attacks.losses import carlini_wagner
from clat.attacks.pgd import pgd, summed_cross_entropy
from clat.attacks.pgd_search import PgdSearch
from clat.attacks.search import run_search
from clat.network import modes

Build = Callable[[], nn.Module]
EPS = {"linf": 8 / 255, "l2": 0.5}


def found(search: PgdSearch, x: Tensor, y: Tensor, **options: object) -> Tensor:
    with modes.attack_mode(search.model):
        return run_search(search, x, y, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_from_the_image_it_is_pgd_bit_for_bit(
    norm: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model, eps = tiny_resnet(), EPS[norm]
    search = PgdSearch(model, eps, eps / 4, norm, steps=5, random_start=False)
    expected = pgd(model, images, labels, eps=eps, alpha=eps / 4, steps=5, norm=norm, random_start=False)
    assert torch.equal(found(search, images, labels), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_from_a_random_point_it_is_ascent_from_there(
    norm: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model, eps = tiny_resnet(), EPS[norm]
    search = PgdSearch(model, eps, eps / 4, norm, steps=5, seed=3)
    start = search.start(images, labels, torch.arange(6))["adv"]
    with modes.attack_mode(model):
        expected = ascend(
            lambda z: summed_cross_entropy(model(z), labels), start, Ball(images, eps, norm), alpha=eps / 4, steps=5
        )
    assert torch.equal(found(search, images, labels), expected)


def test_on_carlini_and_wagners_loss_it_is_the_loop_of_the_published_evaluations(
    tiny_resnet: Build, images: Tensor
) -> None:
    """-max(z_y - max wrong z + 50, 0), ascended by signs; images 0 and 1 are wrong by more than 50."""
    model = tiny_resnet()
    with torch.no_grad():
        model.linear.weight.mul_(300)
        logits = model(images)
        labels = torch.cat([logits[:2].argmin(1), logits[2:].argmax(1)])
    search = PgdSearch(model, 0.1, 0.02, steps=6, seed=3, loss=carlini_wagner)
    start = search.start(images, labels, torch.arange(6))["adv"]
    point = start
    with modes.attack_mode(model):
        for _ in range(6):
            point = point.detach().requires_grad_(True)
            logits, onehot = model(point), torch.eye(10)[labels]
            real = (onehot * logits).sum(1)
            other = ((1 - onehot) * logits - onehot * 10_000).max(1).values
            loss = -(real - other + 50).clamp(min=0)
            (gradient,) = torch.autograd.grad(loss.sum(), point)
            moved = point.detach() + 0.02 * gradient.sign()
            point = torch.minimum(torch.maximum(moved, images - 0.1), images + 0.1).clamp(0, 1)
    adv = found(search, images, labels)
    torch.testing.assert_close(adv, point, rtol=0, atol=1e-6)
    assert torch.equal(adv[:2], start[:2]), "left alone"
    assert not torch.isclose(adv[2:], start[2:]).flatten(1).all(1).any()
    assert not torch.allclose(adv, found(PgdSearch(model, 0.1, 0.02, steps=6, seed=3), images, labels))


def middle(count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    return torch.full((count, 1, 2, 2), 0.5), torch.zeros(count, dtype=torch.int64), torch.arange(count)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_is_uniform_in_the_ball(norm: str) -> None:
    """l-inf: each coordinate is uniform; l2: (length / eps) ** dimension is, and the directions cancel out."""
    x, y, ids = middle()
    delta = (PgdSearch(nn.Identity(), 0.2, 0.1, norm).start(x, y, ids)["adv"] - x).flatten(1) / 0.2
    assert delta.mean(0).abs().max() < 0.15
    share = (delta + 1) / 2 if norm == "linf" else delta.norm(dim=1) ** 4
    for quantile in (0.1, 0.5, 0.9):
        assert (share < quantile).float().mean().item() == pytest.approx(quantile, abs=0.08)
    assert delta.abs().max() <= 1 + 1e-6
    other = PgdSearch(nn.Identity(), 0.2, 0.1, norm, seed=1).start(x, y, ids)["adv"]
    assert not torch.isclose(other, delta.view_as(x) * 0.2 + x, atol=1e-6).flatten(1).all(1).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1e-4, 8 / 255, 1.0])
def test_inside_exactly(norm: str, eps: float, tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    images = images.clone()
    images[0], images[1] = 0, 1
    adv = found(PgdSearch(tiny_resnet(), eps, eps / 2, norm, steps=3), images, labels)
    delta = (adv.double() - images.double()).flatten(1)
    assert (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)).max() <= eps
    assert adv.min() >= 0
    assert adv.max() <= 1


class Counting(nn.Module):
    """<w, x> in float64, rounded, so that no logit depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 48, generator=torch.Generator().manual_seed(0)).double())
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        z = (x.flatten(1).double()[:, None] * self.w).sum(2)
        return z + ((z * 2**30).round() / 2**30 - z).detach()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_sample_makes_all_its_steps_in_any_batch(norm: str) -> None:
    """The published PGD-k does not stop at the first example: its last iterate counts."""
    model = Counting()
    x = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    y = torch.arange(7) % 2
    search = PgdSearch(model, EPS[norm], EPS[norm] / 4, norm, steps=6)
    together = found(search, x, y)
    assert model.forwards == 7 * 6
    for size in (1, 3):
        assert torch.equal(found(search, x, y, batch_size=size), together)
    some = torch.tensor([5, 1])
    assert torch.equal(found(search, x[some], y[some], ids=some), together[some])


def test_a_sample_that_has_had_its_steps_is_not_stepped_on() -> None:
    model = Counting()
    x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    search = PgdSearch(model, 0.1, 0.03, steps=2)
    state = search.start(x, y, torch.arange(2))
    state["t"][0], state["done"][0] = 2, True
    kept = state["adv"].clone()
    search.step(state)
    assert torch.equal(state["adv"][0], kept[0])
    assert not torch.equal(state["adv"][1], kept[1])
    assert state["done"].tolist() == [True, False]


# Shortcuts


class Wavy(nn.Module):
    """z_1 - z_0 = sin(20 m) - `height` with m the mean, which a step carries over a crest."""

    def __init__(self, height: float = 0.0) -> None:
        super().__init__()
        self.height = height
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        score = torch.sin(20 * x.double().flatten(1).mean(1)) - self.height
        return torch.stack([torch.zeros_like(score), score], 1)


def plain_pgd(model: nn.Module, search: PgdSearch, x: Tensor, y: Tensor) -> list[Tensor]:
    """Every iterate, the start first, each made."""
    points = [search.start(x, y, torch.arange(len(x)))["adv"]]
    ball = Ball(x, search.eps, search.norm)
    for _ in range(search.steps):
        points.append(
            ascend(lambda z: search.loss(model(z).float(), y).sum(), points[-1], ball, alpha=search.alpha, steps=1)
        )
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 8, 16, 17, 30, 41])
def test_an_iterate_that_comes_again_ends_where_all_steps_would(steps: int, norm: str) -> None:
    """On both sides of a crest by turns, in a corner, and on a plain; bit for bit."""
    x = torch.linspace(0.1, 0.9, 12).view(12, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    y = torch.arange(12) % 2
    for model in (Wavy(), Counting48()):
        search = PgdSearch(model, 0.1, 0.025, norm, steps=steps)
        expected = plain_pgd(model, search, x, y)[-1]
        model.forwards = 0
        assert torch.equal(found(search, x, y), expected)
        if steps == 41 and norm == "linf":
            assert model.forwards < 12 * 30


class Counting48(nn.Module):
    """Nothing of x but a constant gradient; class 2 has none."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        score = x.flatten(1).double().sum(1)
        return torch.stack([score, -score, 0 * score], 1)


@pytest.mark.parametrize("leave", [True, False])
def test_any_iterate_may_be_the_example(leave: bool) -> None:
    """Against every iterate, each looked at: fooled if any fools. Those that stay end at the last if it does."""
    x = torch.linspace(0.1, 0.9, 40).view(40, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    model = Wavy(height=0.9)
    y = torch.zeros(40, dtype=torch.int64)
    search = PgdSearch(model, 0.06, 0.05, steps=10, verdict="any", leave=leave)
    points = plain_pgd(model, search, x, y)
    with torch.no_grad():
        fools = torch.stack([model(point).argmax(1) != y for point in points])
    assert (fools.any(0) & ~fools[-1]).any(), "overshoots"
    assert (~fools.any(0)).any()
    model.forwards = 0
    adv = found(search, x, y)
    forwards = model.forwards
    with torch.no_grad():
        assert torch.equal(model(adv).argmax(1) != y, fools.any(0))
    first = fools.long().argmax(0)
    for row in range(40):
        if leave or (fools[:, row].any() and not fools[-1, row]):
            expected = points[first[row]] if fools[:, row].any() else None
        else:
            expected = points[-1]
        assert expected is None or torch.equal(adv[row], expected[row]), row
    if leave:
        assert forwards < 40 * 10


def test_an_example_is_claimed_after_the_first_step_and_only_there() -> None:
    model, claims = Wavy(), []
    x, y = torch.full((3, 1, 2, 2), 0.2), torch.tensor([0, 1, 1])
    search = PgdSearch(model, 0.05, 0.01, steps=3, verdict="any")
    state = search.start(x, y, torch.arange(3))
    with modes.attack_mode(model):
        while not state["done"].all():
            search.step(state)
            claims.append(state["claim"].tolist())
    assert claims == [[True, False, False], [False] * 3, [False] * 3]
