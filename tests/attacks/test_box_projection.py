"""The projection against hand-worked cases, a bisection in float64, and the official code."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import Tensor

from clat.attacks.box_projection import step_to_hyperplane
from clat.core.errors import ClatError

NORMS = ("linf", "l2")


def reference(x: Tensor, w: Tensor, rise: Tensor, norm: str) -> Tensor:
    """Bisection for the t of the module's docstring, in float64."""
    x, w, rise = x.double(), w.double(), rise.double()
    side = w.sign() * rise.sign()[:, None]
    room = torch.where(side > 0, 1 - x, x)
    speed = torch.ones_like(w) if norm == "linf" else w.abs()
    low, high = torch.zeros_like(rise), torch.full_like(rise, 1e9)
    for _ in range(200):
        t = (low + high) / 2
        enough = (w.abs() * torch.minimum(t[:, None] * speed, room)).sum(1) >= rise.abs()
        low, high = torch.where(enough, low, t), torch.where(enough, t, high)
    return side * torch.minimum(high[:, None] * speed, room)


def cases(rows: int = 200, width: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and rises of either sign; many coordinates on the box's sides, many zeros in w, rises of 0 up
    to nearly the largest possible."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, width, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    w = torch.randn(rows, width, generator=generator) * torch.rand(rows, width, generator=generator) ** 4
    w[torch.rand(rows, width, generator=generator) < torch.rand(rows, 1, generator=generator) * 0.8] = 0
    up = (w.clamp_min(0) * (1 - x) - w.clamp_max(0) * x).sum(1)
    down = (w.clamp_min(0) * x - w.clamp_max(0) * (1 - x)).sum(1)
    share = torch.rand(rows, generator=generator) * 0.95
    share[:5] = 0
    rise = torch.where(torch.rand(rows, generator=generator) < 0.5, up * share, -down * share)
    return x, w, rise


@pytest.mark.parametrize(
    ("norm", "w", "rise", "expected"),
    [
        ("linf", [1.0, 1.0], 0.2, [0.1, 0.1]),
        ("linf", [3.0, -1.0], 0.4, [0.1, -0.1]),
        ("linf", [1.0, 1.0], -0.6, [-0.3, -0.3]),
        ("linf", [1.0, 1.0], 0.5, [0.4, 0.1]),  # the second stops at 1
        ("linf", [1.0, 0.0], 0.3, [0.3, 0.0]),
        ("l2", [3.0, 4.0], 0.25, [0.03, 0.04]),
        ("l2", [1.0, 2.0], 0.5, [0.3, 0.1]),
        ("l2", [1.0, 1.0], 7.0, [0.5, 0.1]),  # out of reach: the corner
        ("linf", [1.0, -1.0], 7.0, [0.5, -0.9]),
        ("l2", [0.0, 0.0], 1.0, [0.0, 0.0]),
    ],
)
def test_worked_by_hand(norm: str, w: list[float], rise: float, expected: list[float]) -> None:
    step = step_to_hyperplane(torch.tensor([[0.5, 0.9]]), torch.tensor([w]), torch.tensor([rise]), norm)
    torch.testing.assert_close(step, torch.tensor([expected]))


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_bisection(norm: str) -> None:
    x, w, rise = cases()
    step = step_to_hyperplane(x, w, rise, norm)
    assert ((x + step >= -1e-6) & (x + step <= 1 + 1e-6)).all()
    torch.testing.assert_close((w * step).sum(1), rise, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step.double(), reference(x, w, rise, norm), rtol=1e-3, atol=1e-5)
    exact = step_to_hyperplane(x.double(), w.double(), rise.double(), norm)
    torch.testing.assert_close(exact, reference(x, w, rise, norm), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_in_the_box_is_nearer(norm: str) -> None:
    """Random feasible points of the hyperplane, made by moving along it from the projection."""
    x, w, rise = (tensor.double() for tensor in cases(rows=50, width=4, seed=3))
    step = step_to_hyperplane(x, w, rise, norm)
    order = torch.inf if norm == "linf" else 2
    generator = torch.Generator().manual_seed(4)
    for _ in range(200):
        along = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        along -= w * ((w * along).sum(1) / (w * w).sum(1).clamp_min(1e-12))[:, None]
        other = step + 0.1 * along
        feasible = ((x + other >= 0) & (x + other <= 1)).all(1)
        longer = other.norm(order, dim=1) >= step.norm(order, dim=1) - 1e-9
        assert longer[feasible].all()


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_leads_to_the_corner(norm: str) -> None:
    x, w, rise = cases()
    w, rise = w[5:], rise[5:].sign() * 1e4
    corner = torch.where(w * rise[:, None] > 0, 1.0, 0.0)
    step = step_to_hyperplane(x[5:], w, rise, norm)
    expected = torch.where(w == 0, 0.0, corner - x[5:])
    torch.testing.assert_close(step, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_only_the_direction_of_the_normal_matters(norm: str, scale: float) -> None:
    x, w, rise = cases()
    scaled, plain = (step_to_hyperplane(x, w * factor, rise * factor, norm) for factor in (scale, 1))
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_does_not_depend_on_the_others(norm: str) -> None:
    x, w, rise = cases()
    together = step_to_hyperplane(x, w, rise, norm)
    alone = torch.cat([step_to_hyperplane(*(t[i : i + 1] for t in (x, w, rise)), norm) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_steep_and_flat_coordinates_end(norm: str) -> None:
    """Slopes over forty powers of two, the worst case for a method that goes from piece to piece."""
    w = 2.0 ** -torch.arange(40, dtype=torch.float64).repeat(40, 1)
    x = torch.rand(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rise = ((1 - x) * w).sum(1) * (1 - 2.0 ** -torch.arange(1, 41))
    step = step_to_hyperplane(x, w, rise, norm)
    torch.testing.assert_close((w * step).sum(1), rise)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [3, 40, 3072])
def test_agrees_with_the_official_projections(norm: str, width: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official = importlib.import_module("pyautoattack.fab_projections")
    # In float64 and without the smallest slopes, where its thresholds and the cancellation in b - w.x do not tell.
    x, w, rise = (tensor.double()[5:] for tensor in cases(width=width, seed=7))
    w[w.abs() < 1e-3] = 0
    rise = torch.where((w != 0).any(1), rise, 0)
    ours = step_to_hyperplane(x, w, rise, norm)
    theirs = getattr(official, f"projection_{norm}")(x, w, rise + (w * x).sum(1))
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-5)


def test_unknown_norm() -> None:
    x, w, rise = cases(rows=2)
    with pytest.raises(ClatError, match="unknown norm 'l3'"):
        step_to_hyperplane(x, w, rise, "l3")
