"""Inner attack that TRADES and CURE share: away from the network's own clean output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks.ascent import ascend, generator_for
from clat.attacks.ball import Ball, RandomStart
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Step, kl_divergence


@dataclass(frozen=True, kw_only=True)
class DivergenceAttack(InnerAttack):
    """An objective on x', which maximises KL(p(x) || p(x')) from a point near x (Zhang et al. 2019).

    The clean output is computed once.
    """

    start: RandomStart = "normal"
    """Where the attack begins: x + 0.001 * N(0, 1), or a uniform point of the ball, as in the code of Gowal et al.
    2020 and Wang et al. 2023."""

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step)
        ball = Ball.around(x, attack.threat)
        with modes.attack_mode(model, self.attack_bn):
            with torch.no_grad():
                reference = model(x)
            x_adv = ascend(
                lambda z: kl_divergence(model(z), reference),
                ball.starting_point(self.start, generator_for(x.device, step.seed)),
                ball,
                alpha=attack.step_size,
                steps=attack.steps,
            )
        return (x_adv,)
