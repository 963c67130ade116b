"""Projected gradient ascent, the search that PGD, TRADES' inner attack and the feature attack share."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from clat.attacks.ball import Ball
from clat.core.errors import ClatError


def ascend(value: Callable[[Tensor], Tensor], start: Tensor, ball: Ball, *, alpha: float, steps: int) -> Tensor:
    """Walk uphill on `value` inside `ball` for `steps` steps of length `alpha` and return the last point.

    `value(x_adv)` is a scalar, summed over samples so that each sample's gradient is its own. Only the
    gradient with respect to the input is computed; parameters get none. Raises ClatError where the value has
    no gradient at all, which must not pass for robustness.
    """
    point = start
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            # A view: of a leaf that requires a gradient, autocast would keep what it casts until it ends.
            gradient = input_gradient(value(point.view_as(point)), point)
        point = ball.project(point.detach() + alpha * ball.unit(gradient))
    return point.detach()


def input_gradient(value: Tensor, point: Tensor, *, again: bool = False, differentiable: bool = False) -> Tensor:
    """d value / d point; `again`: another one follows from the same forward pass; `differentiable`: the gradient
    itself can be differentiated. Raises ClatError where there is no gradient at all."""
    check_path(value)
    return torch.autograd.grad(value, point, retain_graph=again or differentiable, create_graph=differentiable)[0]


def check_path(value: Tensor) -> None:
    """Raises ClatError if no gradient leads from what the model returned back to its input."""
    if not value.requires_grad:
        raise ClatError("the model has no gradient towards its input: does it detach, or round to integers?")


def check_found(x_adv: Tensor) -> None:
    """Raises ClatError if a gradient was NaN on the way, which leaves its mark in the example."""
    if not torch.isfinite(x_adv).all():
        raise ClatError("the attack's gradient is not finite: does the model return NaN or infinite values?")


def generator_for(device: torch.device, seed: int | None) -> torch.Generator:
    """A generator of its own, so that an attack never moves the global random state. None: a fresh seed."""
    generator = torch.Generator(device=device)
    return generator.manual_seed(int.from_bytes(os.urandom(7), "little") if seed is None else seed)
