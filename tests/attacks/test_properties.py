"""Properties of ball projections, box projection and noise, over shapes, sizes and values that hypothesis draws."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clat.attacks.ball import Ball
from clat.attacks.box_projection import step_to_hyperplane
from clat.attacks.noise import normal, uniform

NORMS = st.sampled_from(["linf", "l2"])
SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
EPS = st.floats(1e-6, 1.0)
quickly = settings(max_examples=60, deadline=None)


def images(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Images of which some pixels are at the very ends of the range."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * 1.4 - 0.2).clamp(0, 1)


def lengths(delta: torch.Tensor, norm: str) -> torch.Tensor:
    flat = delta.double().flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


@quickly
@given(shape=SHAPES, seed=SEEDS, eps=EPS, norm=NORMS, far=st.floats(0, 10))
def test_a_projected_point_is_inside_exactly_and_stays_where_it_is(shape, seed, eps, norm, far):
    x = images(shape, seed)
    ball = Ball(x, eps, norm)
    point = x + far * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    inside = ball.project(point)
    assert (inside >= 0).all()
    assert (inside <= 1).all()
    assert (lengths(inside.double() - x.double(), norm) <= eps).all()
    again = ball.project(inside)
    assert (lengths(again - inside, norm) <= 1e-6 * eps).all()
    if norm == "linf":
        assert torch.equal(again, inside)


@quickly
@given(shape=SHAPES, seed=SEEDS, eps=EPS, norm=NORMS)
def test_what_is_inside_is_not_moved(shape, seed, eps, norm):
    x = images(shape, seed)
    assert torch.equal(Ball(x, eps, norm).project(x), x)


@quickly
@given(shape=SHAPES, seed=SEEDS, eps=EPS, norm=NORMS)
def test_random_points_are_inside_and_follow_from_the_seed(shape, seed, eps, norm):
    x = images(shape, seed)
    one, other = (Ball(x, eps, norm).random_point(torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(one, other)
    assert (lengths(one.double() - x.double(), norm) <= eps).all()
    assert (one >= 0).all()
    assert (one <= 1).all()


@quickly
@given(shape=SHAPES, seed=SEEDS, norm=NORMS, scale=st.floats(1e-30, 1e30))
def test_the_steepest_direction_has_length_one_whatever_the_gradients_scale(shape, seed, norm, scale):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    found = lengths(Ball(torch.zeros(shape), 1.0, norm).unit(gradient), norm)
    nonzero = (gradient.flatten(1) != 0).any(1)
    torch.testing.assert_close(found, nonzero.double(), rtol=1e-5, atol=0)


@quickly
@given(seed=SEEDS, count=st.integers(1, 6), places=st.integers(0, 2**20), numbers=st.integers(1, 40))
def test_noise_belongs_to_a_sample_and_a_place_alone(seed, count, places, numbers):
    """A batch's noise is that of its samples by themselves, in any order."""
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:count]
    for draw in (uniform, normal):
        whole = draw(seed, ids, places, numbers)
        assert torch.equal(whole, torch.cat([draw(seed, one[None], places, numbers) for one in ids]))
        assert torch.equal(draw(seed, ids.flip(0), places, numbers), whole.flip(0))
    assert (uniform(seed, ids, places, numbers) >= 0).all()
    assert (uniform(seed, ids, places, numbers) < 1).all()


@quickly
@given(seed=SEEDS, norm=NORMS, rows=st.integers(1, 4), dimensions=st.integers(1, 12), share=st.floats(0.0, 0.95))
def test_a_step_to_a_hyperplane_arrives_inside_the_box_and_no_random_step_is_shorter(
    seed, norm, rows, dimensions, share
):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, dimensions, generator=draw, dtype=torch.float64)
    w = torch.randn(rows, dimensions, generator=draw, dtype=torch.float64)
    reach = (w.clamp_min(0) * (1 - x) + (-w).clamp_min(0) * x).sum(1)  # what the corner of the box brings
    step = step_to_hyperplane(x, w, share * reach, norm)
    moved = x + step
    assert (moved >= -1e-12).all()
    assert (moved <= 1 + 1e-12).all()
    torch.testing.assert_close((w * step).sum(1), share * reach, rtol=1e-6, atol=1e-9)
    other = torch.rand(rows, dimensions, generator=draw, dtype=torch.float64) - x
    enough = (w * other).sum(1) >= share * reach
    assert (lengths(other, norm)[enough] >= lengths(step, norm)[enough] - 1e-9).all()
