"""TRADES (Zhang et al. 2019): clean cross-entropy plus a divergence between clean and attacked outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.objectives.base import Examples, Loss, Step, check_weight, cross_entropy, kl_divergence
from clat.objectives.divergence import DivergenceAttack


@dataclass(frozen=True, kw_only=True)
class Trades(DivergenceAttack):
    """min CE(F(x), y) + beta * mean KL(p(x) || p(x')), x' maximising the same KL.

    The gradient of the KL flows into both outputs.
    """

    name: Literal["trades"] = "trades"
    beta: float = 6.0
    """Weight of the divergence."""
    label_smoothing: float = 0.0
    """Of the clean cross-entropy, in [0, 1): 0.1 in Wang et al. 2023."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("TRADES", "beta", self.beta)
        if not 0 <= self.label_smoothing < 1:
            raise ClatError(f"label_smoothing is {self.label_smoothing}: expected at least 0 and less than 1")

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        logits = model(x)
        natural = cross_entropy(logits, y, self.label_smoothing)
        divergence = kl_divergence(model(x_adv), logits) / len(x)
        total = natural + self.beta * divergence
        return Loss(total, {"cross_entropy": natural.detach(), "divergence": divergence.detach()})
