"""Projected gradient ascent, the search that PGD, TRADES' inner attack and the feature attack share."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from clat.attacks.ball import Ball
from clat.core.errors import ClatError
from clat.network.folding import readers_known

NO_GRADIENT = "the model has no gradient towards its input: does it detach, or round to integers?"


def ascend(value: Callable[[Tensor], Tensor], start: Tensor, ball: Ball, *, alpha: float, steps: int) -> Tensor:
    """Return the last point of a walk uphill on `value` inside a ball.

    Only the gradient with respect to the input is computed; parameters get none.

    Args:
        value: maps points (N, ...) to a scalar, summed over the samples so that each sample's gradient is its own.
        start: the first point, (N, ...), inside the ball.
        ball: the set that every step is projected onto.
        alpha: the length of a step in the ball's norm, in image units.
        steps: steps to take.

    Returns:
        The point after all steps, detached, of the shape of `start`.

    Raises:
        ClatError: if the value has no gradient at all, which must not pass for robustness.
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
    """Return the gradient of `value` with respect to `point`.

    Args:
        value: a scalar that was computed from `point`.
        point: the input, which requires a gradient.
        again: another gradient follows from the same forward pass, whose graph has to be kept.
        differentiable: the gradient itself has to be differentiable.

    Returns:
        The gradient, of the shape of `point`.

    Raises:
        ClatError: if there is no gradient at all.
    """
    check_path(value)
    readers_known(value)
    # What the network returned may require a gradient, by its weights, and have none towards its input.
    try:
        gradient = torch.autograd.grad(
            value, point, retain_graph=again or differentiable, create_graph=differentiable, allow_unused=True
        )[0]
    except RuntimeError as error:
        if "use_reentrant" not in str(error) and "checkpoint" not in str(error).lower():
            raise
        raise ClatError(
            "the network uses torch.utils.checkpoint with use_reentrant=True, through which no gradient can be "
            "asked for: give it use_reentrant=False"
        ) from error
    if gradient is None:
        raise ClatError(NO_GRADIENT)
    return gradient


def check_path(value: Tensor) -> None:
    """Raise an error if no gradient leads from what the model returned back to its input.

    Args:
        value: what was computed from the model's output.

    Raises:
        ClatError: if `value` requires no gradient.
    """
    if not value.requires_grad:
        raise ClatError(NO_GRADIENT)


def check_found(x_adv: Tensor) -> None:
    """Raise an error if a gradient was NaN on the way, which leaves its mark in the example.

    Args:
        x_adv: the examples that a search found.

    Raises:
        ClatError: if one of their values is not finite.
    """
    if not torch.isfinite(x_adv).all():
        raise ClatError("the attack's gradient is not finite: does the model return NaN or infinite values?")


def generator_for(device: torch.device, seed: int | None) -> torch.Generator:
    """Return a random generator of its own, so that an attack never moves the global random state.

    Args:
        device: where numbers will be drawn.
        seed: its seed; None: a fresh one from the operating system.

    Returns:
        The seeded generator.
    """
    generator = torch.Generator(device=device)
    return generator.manual_seed(int.from_bytes(os.urandom(7), "little") if seed is None else seed)
