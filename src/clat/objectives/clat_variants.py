"""Two variants of CLAT's objective: the paper's one-step form, and the form that our measurements led to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clat.attacks.fgsm import one_step_alpha
from clat.attacks.settings import Attack
from clat.objectives.base import Step
from clat.objectives.clat import Clat


@dataclass(frozen=True, kw_only=True)
class ClatFast(Clat):
    """CLAT (Fast): the inner maximisation is one step of 1.25 * eps from a uniform start, as in Fast-AT."""

    one_step = True

    name: Literal["clat-fast"] = "clat-fast"  # type: ignore[assignment]
    steps: int = 1

    def attack(self, step: Step, *, random_start: bool = True) -> Attack:
        return one_step_alpha(super().attack(step, random_start=random_start), given=self.alpha is not None)


@dataclass(frozen=True, kw_only=True)
class ClatPlus(Clat):
    """CLAT as our measurements shaped it, where the printed form lost to its baseline (docs/results/claim).

    Both terms at one example of PGD on the output, and L_C relative, behind the normalisation, where shrinking a
    layer does not lower it. Not the paper's; select by `normaliser = "relative"`, `tap = "norm"`, which are as free
    of scale.
    """

    shards = True

    name: Literal["clat-plus"] = "clat-plus"  # type: ignore[assignment]
    ce_input: Literal["clean", "feature", "pgd", "both"] = "pgd"
    feature_input: Literal["feature", "pgd"] = "pgd"
    tap: Literal["output", "norm", "activation"] = "norm"
    relative: bool = True
