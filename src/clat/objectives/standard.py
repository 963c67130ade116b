"""Standard training: cross-entropy on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clat.objectives.base import Examples, Loss, Objective, Step, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Standard(Objective):
    """min CE(F(x), y)."""

    attacks = False

    shards = True

    name: Literal["standard"] = "standard"

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        total = cross_entropy(model(x), y, self.label_smoothing)
        return Loss(total, {"cross_entropy": total.detach()})
