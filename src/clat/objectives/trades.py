"""TRADES (Zhang et al. 2019): clean cross-entropy plus a divergence between clean and attacked outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clat.objectives.base import Examples, Loss, Step, check_weight, cross_entropy, kl_divergence
from clat.objectives.divergence import DivergenceAttack


@dataclass(frozen=True, kw_only=True)
class Trades(DivergenceAttack):
    """min CE(F(x), y) + beta * mean KL(p(x) || p(x')), x' maximising the same KL.

    The gradient of the KL flows into both outputs. `label_smoothing` is 0.1 in Wang et al. 2023.
    """

    shards = True

    name: Literal["trades"] = "trades"
    beta: float = 6.0
    """Weight of the divergence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("TRADES", "beta", self.beta)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        logits = model(x)
        natural = cross_entropy(logits, y, self.label_smoothing)
        divergence = kl_divergence(model(x_adv), logits) / len(x)
        total = natural + self.beta * divergence
        return Loss(total, {"cross_entropy": natural.detach(), "divergence": divergence.detach()})
