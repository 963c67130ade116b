"""The set an adversarial example must lie in: the eps-ball around x, cut with the image range [0, 1]."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from clat.attacks.draws import normal_like, uniform_like
from clat.core.errors import unknown
from clat.core.threat_model import NORMS, ThreatModel

_PART = 2**20
"""Numbers that are computed in float64 at a time."""
RandomStart = Literal["uniform", "normal"]
"""Where an inner attack begins: a uniform point of the ball, or x + 0.001 * N(0, 1)."""


class Ball:
    """All points within `eps` of `x` in `norm` and within [0, 1].

    Every point that `project` returns is inside exactly, not up to rounding: the l-inf bounds, and an l2
    perturbation that rounding left too long, are rounded towards x.

    Attributes:
        x: the centres, (N, ...) float32 or float64 in [0, 1].
        eps: the radius, in the unit of `x`.
        norm: "linf" or "l2".
        low: the least value of each element, of the shape of `x`; with "linf" only.
        high: the largest value of each element, of the shape of `x`; with "linf" only.
    """

    def __init__(
        self, x: Tensor, eps: float, norm: str = "linf", *, bounds: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Remember the centres and compute the bounds.

        Args:
            x: the centres, (N, ...) float32 or float64 in [0, 1].
            eps: the radius, in the unit of `x`.
            norm: "linf" or "l2".
            bounds: `low` and `high` of a ball with the same x, eps and norm "linf", which then need not be computed
                again.

        Raises:
            ClatError: for a norm that does not exist.
        """
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.x, self.eps, self.norm = x, eps, norm
        if norm == "linf":
            self.low, self.high = bounds or (_inward(x, -eps), _inward(x, eps))

    @classmethod
    def around(cls, x: Tensor, threat: ThreatModel) -> Ball:
        """Return the ball of a threat model around images.

        Args:
            x: the centres, (N, ...) float32 or float64 in [0, 1].
            threat: radius and norm.

        Returns:
            The ball.
        """
        return cls(x, threat.radius, threat.norm)

    def project(self, point: Tensor) -> Tensor:
        """Return the nearest point of the ball (l-inf), or the one towards x (l2).

        Args:
            point: any points, of the shape of `x`.

        Returns:
            Points inside the ball exactly.
        """
        if self.norm == "linf":
            return torch.clamp(point, self.low, self.high)
        delta = (point - self.x).flatten(1)
        length = delta.norm(dim=1, keepdim=True)
        delta = delta * (self.eps / length.clamp_min(1e-30)).clamp_max(1.0)
        inside = torch.clamp(self.x + delta.view_as(self.x), 0, 1)
        return self._shorten(inside)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Return uniform points of the ball around x, clipped to the image range.

        Args:
            generator: where random numbers come from, on the device of `x`.

        Returns:
            Points inside the ball, of the shape of `x`.
        """
        if self.norm == "linf":
            noise = uniform_like(self.x, generator)
            return self.project(self.x + (2 * noise - 1) * self.eps)
        direction = normal_like(self.x, generator)
        dimension = math.prod(self.x.shape[1:])
        radius = uniform_like(self.x.flatten(1)[:, 0], generator)
        step = self.unit(direction) * (self.eps * _column(radius ** (1 / dimension), self.x))
        return self.project(self.x + step)

    def nearby_point(self, generator: torch.Generator, scale: float = 0.001) -> Tensor:
        """Return x + scale * N(0, 1), projected.

        TRADES and its kin start there, a little off x, where their divergence has no gradient.

        Args:
            generator: where random numbers come from, on the device of `x`.
            scale: the standard deviation of the noise, in image units.

        Returns:
            Points inside the ball, of the shape of `x`.
        """
        return self.project(self.x + scale * normal_like(self.x, generator))

    def starting_point(self, start: RandomStart, generator: torch.Generator) -> Tensor:
        """Return the points at which an inner attack begins.

        Args:
            start: "uniform" (`random_point`) or "normal" (`nearby_point`).
            generator: where random numbers come from, on the device of `x`.

        Returns:
            Points inside the ball, of the shape of `x`.
        """
        return self.random_point(generator) if start == "uniform" else self.nearby_point(generator)

    def unit(self, gradient: Tensor) -> Tensor:
        """Return the steepest direction of unit length in this norm.

        Args:
            gradient: of the shape of `x`.

        Returns:
            The signs of the gradient (l-inf), or the gradient over its length (l2); zero where it is zero, and NaN
            where it is NaN, whose sign torch calls zero, so that a broken gradient would pass for robustness.
        """
        if self.norm == "linf":
            return torch.where(gradient.isnan(), gradient, gradient.sign())
        if gradient.numel() == 0:
            return gradient
        tiny = torch.finfo(gradient.dtype).tiny
        # The largest element first: the squares of a saturated network's gradient vanish in float32.
        gradient = gradient / _column(gradient.flatten(1).abs().amax(dim=1).clamp_min(tiny), gradient)
        return gradient / _column(gradient.flatten(1).norm(dim=1).clamp_min(tiny), gradient)

    def _shorten(self, point: Tensor) -> Tensor:
        """Undo the last bits by which rounding pushed an l2 perturbation out of the ball."""
        delta = point.double() - self.x.double()
        length = delta.flatten(1).norm(dim=1)
        too_long = length > self.eps
        if not too_long.any():
            return point
        scale = self.eps * (1 - 1e-12) / length.clamp_min(1e-300)
        shorter = rounded_towards(self.x, delta * _column(scale, delta))
        return torch.where(_column(too_long, point), shorter, point)


def _column(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))


def _inward(x: Tensor, step: float) -> Tensor:
    """Return x + step in x's precision, rounded towards x, within [0, 1], without a gradient.

    A part at a time, since several float64 copies of a batch of large images take more memory than all else.
    """
    x = x.detach()
    found = torch.empty_like(x)
    for part, bound in zip(*(each.split(_rows(x)) for each in (x, found)), strict=True):
        bound.copy_(rounded_towards(part, torch.full_like(part, step, dtype=torch.float64)).clamp_(0, 1))
    return found


def _rows(x: Tensor) -> int:
    """Return how many samples of x make a part: about _PART numbers, at least one sample."""
    return max(_PART // max(x[:1].numel(), 1), 1)


def rounded_towards(x: Tensor, delta: Tensor) -> Tensor:
    """Return x + delta in x's precision, rounded towards x: no element moves by more than its |delta|.

    Args:
        x: of any shape.
        delta: of the same, float64.

    Returns:
        The sum, of x's type and shape.
    """
    point = (x.double() + delta).to(x.dtype)
    beyond = (point.double() - x.double()).abs() > delta.abs()
    return torch.where(beyond, torch.nextafter(point, x), point)
