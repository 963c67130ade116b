"""PGD adversarial training (Madry et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clat.attacks.pgd import run_pgd
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, cross_entropy


@dataclass(frozen=True, kw_only=True)
class PgdAT(InnerAttack):
    """min CE(F(x'), y), x' by PGD on the cross-entropy."""

    shards = True

    name: Literal["pgd-at"] = "pgd-at"
    random_start: bool = True
    """Begin at a uniform point of the ball rather than at x, as the released code of IDBH does."""

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step, random_start=self.random_start)
        with modes.attack_mode(model, self.attack_bn):
            return (run_pgd(model, x, y, attack, seed=step.seed),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        total = cross_entropy(model(x_adv), y, self.label_smoothing)
        return Loss(total, {"cross_entropy": total.detach()})
