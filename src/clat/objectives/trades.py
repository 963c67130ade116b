"""TRADES (Zhang et al. 2019): clean cross-entropy plus a divergence between clean and attacked outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clat import modes
from clat.attacks.ascent import ascend, generator_for
from clat.attacks.ball import Ball
from clat.errors import ClatError
from clat.objectives.base import Examples, InnerAttack, Loss, Step, cross_entropy, kl_divergence


@dataclass(frozen=True, kw_only=True)
class Trades(InnerAttack):
    """min CE(F(x), y) + beta * mean KL(p(x) || p(x')), x' maximising the same KL from x + 0.001 * N(0, 1).

    The gradient of the KL flows into both outputs. The clean output of the inner attack is computed once.
    """

    name: Literal["trades"] = "trades"
    beta: float = 6.0
    """Weight of the divergence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta >= 0:
            raise ClatError(f"beta is {self.beta}: TRADES expects a weight of at least 0")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step)
        ball = Ball(x, attack.eps_value, attack.norm)
        with modes.for_attack(model, self.attack_bn):
            with torch.no_grad():
                reference = model(x)
            x_adv = ascend(
                lambda z: kl_divergence(model(z), reference),
                ball.nearby_point(generator_for(x.device, step.seed)),
                ball,
                alpha=attack.alpha_value,
                steps=attack.steps,
            )
        return (x_adv,)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        logits = model(x)
        natural = cross_entropy(logits, y)
        divergence = kl_divergence(model(x_adv), logits) / len(x)
        total = natural + self.beta * divergence
        return Loss(total, {"cross_entropy": natural.detach(), "divergence": divergence.detach()})
