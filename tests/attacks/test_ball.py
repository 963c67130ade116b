"""Invariant 4: an adversarial example is inside, exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from clat.attacks import feature_attack, fgsm, pgd
from clat.attacks.ball import Ball
from clat.core.errors import ClatError
from clat.core.units import parse_size
from clat.network.layers import enumerate_layers

EPS = [0.03, "8/255", "1/255", "2/255", "4/255", "16/255", 0.031, 0.1, "1/3", 0.5, 1.0, 1e-3, 1e-6, 1e-9]


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(4, 3, 9, 7, generator=generator, dtype=dtype)
    pixels = torch.randint(0, 256, (4, 3, 9, 7), generator=generator).to(dtype) / 255
    return {
        "black": torch.zeros(4, 3, 9, 7, dtype=dtype),
        "white": torch.ones(4, 3, 9, 7, dtype=dtype),
        "tiny": uniform * 1e-30,
        "denormal": torch.full((4, 3, 9, 7), 1e-42, dtype=dtype),
        "almost white": (1 - uniform * 1e-6).clamp(0, 1),
        "around eps": (0.03 + (uniform - 0.5) * 1e-6),
        "uniform": uniform,
        "pixels": pixels,
        "one": uniform[:1, :1, :1, :1],
    }


def check_inside(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> None:
    assert x_adv.dtype == x.dtype
    assert x_adv.shape == x.shape
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    change = (x_adv.double() - x.double()).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (length <= eps).all(), (length - eps).max()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_projected_point_is_inside(norm: str, eps: float | str, dtype: torch.dtype) -> None:
    radius = float(parse_size(eps))
    generator = torch.Generator().manual_seed(6)
    for name, x in inputs(dtype).items():
        ball = Ball(x, radius, norm)
        for scale in (radius, radius * 1.001, 10 * radius, 3.0, 1e-12):
            noise = torch.randn(x.shape, generator=generator, dtype=dtype)
            for step in (noise, noise.sign(), torch.ones_like(x), -torch.ones_like(x)):
                point = ball.project(x + scale * step)
                check_inside(point, x, radius, norm)
                check_inside(ball.project(point), x, radius, norm)
        check_inside(ball.random_point(generator), x, radius, norm)
        assert torch.equal(ball.project(x), x), name


@pytest.mark.parametrize("eps", EPS[:8])
def test_the_linf_bound_is_the_last_number_inside(eps: float | str) -> None:
    """Not merely inside: the next float32 outwards would be outside, in exact arithmetic."""
    exact = parse_size(eps)
    x = inputs()["pixels"].flatten()[:40].view(1, 1, 5, 8)
    ball = Ball(x, float(exact))
    radius = Fraction(float(exact))
    for sign, bound in ((1, ball.high), (-1, ball.low)):
        further = torch.nextafter(bound, torch.full_like(bound, 2.0 * sign))
        for value, edge, beyond in zip(x.flatten(), bound.flatten(), further.flatten(), strict=True):
            assert abs(Fraction(edge.item()) - Fraction(value.item())) <= radius
            if edge not in (0, 1):
                assert abs(Fraction(beyond.item()) - Fraction(value.item())) > radius


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.03, "8/255", "1/255", 0.5, 1e-6])
def test_every_attack_stays_inside(norm: str, eps: float | str, tiny_resnet, labels: Tensor) -> None:  # type: ignore[no-untyped-def]
    model = tiny_resnet()
    radius = float(parse_size(eps))
    layers = enumerate_layers(model, inputs()["uniform"])[:3]
    for name in ("black", "white", "tiny", "uniform", "pixels"):
        x = inputs()[name]
        y = labels[: len(x)]
        check_inside(pgd(model, x, y, eps=eps, steps=3, norm=norm, seed=0), x, radius, norm)
        check_inside(pgd(model, x, y, eps=eps, alpha=0.9, steps=2, norm=norm, random_start=False), x, radius, norm)
        check_inside(fgsm(model, x, y, eps=eps, norm=norm, seed=0), x, radius, norm)
        check_inside(feature_attack(model, x, layers, eps=eps, steps=3, norm=norm, seed=0), x, radius, norm)


def test_l2_projection_goes_straight_towards_x() -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    found = Ball(x, 0.1, "l2").project(x + torch.tensor([[0.3, 0.4], [0.03, 0.04]]).view(2, 1, 1, 2))
    torch.testing.assert_close(found - x, torch.tensor([[0.06, 0.08], [0.03, 0.04]]).view(2, 1, 1, 2))


def test_the_random_start_is_uniform_in_the_ball() -> None:
    x = torch.full((4000, 1, 1, 2), 0.5)
    generator = torch.Generator().manual_seed(0)
    noise = (Ball(x, 0.2).random_point(generator) - x).flatten(1)
    assert noise.abs().max() <= 0.2
    # uniform on [-0.2, 0.2]: mean 0, deviation 0.2 / sqrt(3), half of it beyond 0.1
    assert noise.mean(0).abs().max() < 0.01
    assert noise.std(0).numpy() == pytest.approx([0.1155, 0.1155], abs=0.004)
    radius = (Ball(x, 0.2, "l2").random_point(generator) - x).flatten(1).norm(dim=1)
    # uniform in a disc: P(radius <= r) = (r / 0.2) ** 2
    assert (radius <= 0.1).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert radius.max() > 0.195


def test_unknown_norm() -> None:
    with pytest.raises(ClatError, match="unknown norm 'l3'; did you mean 'l2'"):
        Ball(torch.zeros(1, 1, 1, 1), 0.1, "l3")
