"""N-FGSM (de Jorge et al., NeurIPS 2022): one step from strong noise, without a projection.

    min CE(F(x'), y),    x' = clip(z + eps sign grad CE(F(z), y)),    z = clip(x + U(-k eps, k eps)),    k = 2

where clip is to the image range [0, 1]. x' may leave the eps-ball, by up to k eps: cutting it back is what brings
catastrophic overfitting back, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clat.attacks.ascent import ascend, generator_for
from clat.attacks.ball import Ball
from clat.attacks.fgsm import one_step_alpha
from clat.attacks.pgd import summed_cross_entropy
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, cross_entropy


@dataclass(frozen=True, kw_only=True)
class NFGSM(InnerAttack):
    """FGSM training from noise that is larger than eps.

    By default on batch statistics, as in the published code, whose stored ones follow the attack's pass too; here
    they follow the loss's alone.
    """

    one_step = True

    name: Literal["n-fgsm"] = "n-fgsm"
    steps: int = 1
    noise: float = 2.0
    """k: the noise is a uniform point of the ball of radius k * eps. The paper has 4 for eps = 16/255."""
    attack_bn: Literal["eval", "train"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < math.inf:
            raise ClatError(f"noise is {self.noise}: N-FGSM expects a multiple of eps of at least 0, such as 2")

    def attack(self, step: Step, *, random_start: bool = False) -> Attack:
        return one_step_alpha(super().attack(step, random_start=random_start), given=self.alpha is not None)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step)
        norm = attack.threat.norm
        noisy = Ball(x, self.noise * attack.threat.radius, norm).random_point(generator_for(x.device, step.seed))
        everything = Ball(x, math.sqrt(x[0].numel()), norm)  # the image range alone cuts
        with modes.attack_mode(model, self.attack_bn):
            found = ascend(
                lambda z: summed_cross_entropy(model(z), y), noisy, everything, alpha=attack.step_size, steps=1
            )
        return (found,)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        total = cross_entropy(model(x_adv), y, self.label_smoothing)
        return Loss(total, {"cross_entropy": total.detach()})
