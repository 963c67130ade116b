"""Projected gradient descent (Madry et al. 2018), the attack that most adversarial training stands on."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.ascent import ascend, check_found, generator_for
from clat.attacks.ball import Ball
from clat.attacks.settings import Attack
from clat.core.units import Size
from clat.network import modes
from clat.network.edge import Network, accept_network
from clat.network.logits import check_logits

LogitLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), labels (N,)) -> a scalar to increase, summed over the samples. Labels can be (N, K) float
probabilities where the loss takes them, as `summed_cross_entropy` does."""


def summed_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy summed over the batch, in float32.

    Every sample's gradient is independent of the rest.

    Args:
        logits: (N, K), in any floating point type.
        y: labels, (N,) int64, or class probabilities, (N, K).

    Returns:
        The sum, a scalar.
    """
    return F.cross_entropy(logits.float(), y, reduction="sum")


def checked_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return `summed_cross_entropy` for a model and labels that nobody has looked at yet.

    Args:
        logits: what the model returned.
        y: labels, (N,) int64.

    Returns:
        The sum, a scalar.

    Raises:
        ClatError: if these are no logits (N, K), or a label is not one of the K classes.
    """
    check_logits(logits, y)
    return summed_cross_entropy(logits, y)


def pgd(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    random_start: bool = True,
    seed: int | None = None,
) -> Tensor:
    """Return adversarial examples found by untargeted PGD on the cross-entropy of the model's output.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode and left
            without a trace.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        alpha: the length of a step, in the same unit; None: 2.5 * eps / steps.
        steps: gradient steps, at least 1.
        norm: "linf" or "l2".
        random_start: begin at a uniform point of the ball rather than at x.
        seed: the same seed gives the same example; None: a fresh one.

    Returns:
        x_adv, of the shape of `x`, in float32 (float64 where images and network are), within eps of x and within
        [0, 1] exactly.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a model without finite gradients.
    """
    model, x = accept_network(model, x, y)
    attack = Attack.parse(eps=eps, alpha=alpha, steps=steps, norm=norm, random_start=random_start)
    with modes.attack_mode(model, labels=y):
        found = run_pgd(model, x, y, attack, seed=seed, loss=checked_cross_entropy)
    check_found(found)
    return found


def run_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    seed: int | None,
    loss: LogitLoss = summed_cross_entropy,
    start: Tensor | None = None,
) -> Tensor:
    """Return what `pgd` does, without its checks of images and gradients.

    Args:
        model: the network, in attack mode (`clat.network.modes.attack_mode`).
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64, or what else `loss` takes.
        attack: budget, step size and kind of start.
        seed: seed of a random start; None: a fresh one.
        loss: what is increased, a function of logits (N, K) and `y`, summed over the samples.
        start: begin at these points of the ball, rather than where `attack` and `seed` say.

    Returns:
        x_adv, of the shape of `x`, inside the ball exactly; NaN where a gradient was.

    Raises:
        ClatError: if the model's output has no gradient towards its input.
    """
    ball = Ball.around(x, attack.threat)
    if start is None:
        start = ball.random_point(generator_for(x.device, seed)) if attack.random_start else x
    return ascend(lambda z: loss(model(z), y), start, ball, alpha=attack.step_size, steps=attack.steps)
