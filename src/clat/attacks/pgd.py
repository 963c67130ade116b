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
    """Cross-entropy summed over the batch, in float32: every sample's gradient is independent of the rest."""
    return F.cross_entropy(logits.float(), y, reduction="sum")


def checked_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """`summed_cross_entropy` for a model and labels that nobody has looked at yet."""
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
    """Untargeted PGD on the cross-entropy of the model's output.

    `x`: (N, C, H, W) float in [0, 1]; `y`: (N,) int64; `eps`, `alpha`: in the same units as x, numbers or fractions
    such as "8/255" (`alpha=None`: 2.5 * eps / steps); `norm`: "linf" or "l2"; `random_start`: begin at a uniform
    point of the ball; `seed`: the same seed gives the same example, None a fresh one. Returns x_adv, same shape, in
    float32 (float64 where images and network are), exactly within eps of x and [0, 1]. The model is used in
    evaluation mode and left without a trace. Raises ClatError for inputs outside [0, 1] or settings that make no
    sense.
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
    """PGD without the input checks; the caller has put the model into attack mode (`modes.attack_mode`).
    `start`: begin here, a point of the ball, rather than where `attack` and `seed` say."""
    ball = Ball.around(x, attack.threat)
    if start is None:
        start = ball.random_point(generator_for(x.device, seed)) if attack.random_start else x
    return ascend(lambda z: loss(model(z), y), start, ball, alpha=attack.step_size, steps=attack.steps)
