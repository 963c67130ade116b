"""Fast adversarial training (Wong et al. 2020): one gradient step from a uniform start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clat.attacks.fgsm import one_step_alpha
from clat.attacks.settings import Attack
from clat.objectives.base import Step
from clat.objectives.pgd_at import PgdAT


@dataclass(frozen=True, kw_only=True)
class FastAT(PgdAT):
    """PGD-AT with one step of 1.25 * eps, by default on batch statistics as in the published code.

    Long runs or larger steps can end in catastrophic overfitting, which the training loop watches for.
    """

    one_step = True

    name: Literal["fast-at"] = "fast-at"  # type: ignore[assignment]
    steps: int = 1
    attack_bn: Literal["eval", "train"] = "train"

    def attack(self, step: Step, *, random_start: bool = True) -> Attack:
        return one_step_alpha(super().attack(step, random_start=random_start), given=self.alpha is not None)
