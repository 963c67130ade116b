"""Projected gradient ascent, the search that PGD, TRADES' inner attack and the feature attack share."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from clat.attacks.ball import Ball


def ascend(value: Callable[[Tensor], Tensor], start: Tensor, ball: Ball, *, alpha: float, steps: int) -> Tensor:
    """Walk uphill on `value` inside `ball` for `steps` steps of length `alpha` and return the last point.

    `value(x_adv)` is a scalar, summed over samples so that each sample's gradient is its own. Only the
    gradient with respect to the input is computed; parameters get none.
    """
    point = start
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(value(point), point)
        point = ball.project(point.detach() + alpha * ball.unit(gradient))
    return point.detach()


def generator_for(device: torch.device, seed: int | None) -> torch.Generator:
    """A generator of its own, so that an attack never moves the global random state. None: a fresh seed."""
    generator = torch.Generator(device=device)
    return generator.manual_seed(int.from_bytes(os.urandom(7), "little") if seed is None else seed)
