"""GradAlign (Andriushchenko and Flammarion 2020): one-step training kept from catastrophic overfitting.

    min CE(F(x'), y) + lambda * (1 - mean cos(g(x), g(x + U(-eps, eps)))),  g = the gradient of CE towards the input

The input's gradient is part of the loss, so the weights' gradient goes through it a second time (double
backpropagation). Activations without a second derivative are no obstacle: the input's gradient is a product of
weights, and the cosine depends on them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clat.attacks.ascent import generator_for, input_gradient
from clat.attacks.ball import Ball
from clat.attacks.fgsm import one_step_alpha
from clat.attacks.pgd import summed_cross_entropy
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.core.units import Size, parse_size
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight, cross_entropy, threat_of


@dataclass(frozen=True, kw_only=True)
class GradAlign(InnerAttack):
    """FGSM training with the alignment term.

    x' is one step of 1.25 * eps along the sign of the gradient, projected: from x itself it ends at eps. Samples
    with a gradient of zero have no direction and are left out of the mean. BatchNorm: the alignment's passes run in
    the mode of the training step and do not touch the stored statistics, which follow x' alone.
    """

    one_step = True
    second_order = True

    name: Literal["grad-align"] = "grad-align"
    steps: int = 1
    lambda_: Annotated[float | None, Field(alias="lambda")] = None
    """The weight of the alignment term (`lambda` in a recipe). None: `lambda_rule` of eps, 0.2 at 8/255."""
    random_start: bool = False
    """Begin the step at a uniform point of the ball rather than at x, as the paper's reported runs do not."""
    first_gradient: Literal["clean", "attack"] = "clean"
    """The first of the two gradients. `clean`: g(x), which the weights' gradient goes through like the second's, as
    the paper's formula reads. `attack`: the attack's own gradient, where it started, as a constant: what the
    published code does, and one pass each way less."""
    attack_bn: Literal["eval", "train"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_ is not None:
            check_weight("GradAlign", "lambda", self.lambda_)

    def check(self, threat: ThreatModel) -> None:
        super().check(threat)
        self._weight(Step(threat=threat))

    def attack(self, step: Step, *, random_start: bool = True) -> Attack:
        attack = super().attack(step, random_start=random_start)  # 1.25 eps, whatever the start
        return one_step_alpha(attack, given=self.alpha is not None)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        """Return (x', the attack's gradient)."""
        attack = self.attack(step)
        ball = Ball.around(x, attack.threat)
        start = ball.random_point(generator_for(x.device, step.seed)) if self.random_start else x
        with modes.attack_mode(model, self.attack_bn):
            gradient = _gradient(model, start, y)
        return ball.project(start + attack.step_size * ball.unit(gradient)), gradient

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        x_adv, first = examples
        total = cross_entropy(model(x_adv), y, self.label_smoothing)
        weight = self._weight(step)
        # lambda among them, as it rises along with an eps_schedule
        parts = {"cross_entropy": total.detach(), "lambda": total.new_tensor(weight)}
        if weight > 0:
            ball = Ball.around(x, self.attack(step).threat)
            elsewhere = ball.random_point(generator_for(x.device, derive_seed(step.seed, "alignment")))
            with modes.preserve_statistics(model):
                if self.first_gradient == "clean":
                    first = _gradient(model, x, y, differentiable=True)
                second = _gradient(model, elsewhere, y, differentiable=True)
            misalignment = 1 - mean_cosine(first, second)
            total = total + weight * misalignment
            parts["misalignment"] = misalignment.detach()
        return Loss(total, parts)

    def _weight(self, step: Step) -> float:
        if self.lambda_ is not None:
            return self.lambda_
        if step.threat.norm != "linf":
            raise ClatError(
                f"GradAlign's rule for lambda is for linf, the run's norm is {step.threat.norm}: give lambda"
            )
        return lambda_rule(threat_of(step, self.eps).eps)


def lambda_rule(eps: Size) -> float:
    """Return lambda(eps) = 0.02 * 10^(eps / 8), with eps in pixel values: 0.2 at 8/255.

    Published for eps up to 16/255 (Andriushchenko and Flammarion 2020).

    Args:
        eps: the radius in image units, a number or a fraction such as "8/255".

    Returns:
        The weight of the alignment term.
    """
    return 0.02 * 10 ** (float(parse_size(eps)) * 255 / 8)


def mean_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean over samples of cos(one, other), of the samples where neither is zero.

    Args:
        one: (N, ...), such as a gradient towards the images.
        other: of the same shape.

    Returns:
        A scalar from -1 to 1; 1 if every sample has a zero.
    """
    one, other = one.flatten(1), other.flatten(1)
    peaks = [side.detach().abs().amax(dim=1, keepdim=True) for side in (one, other)]
    there = ((peaks[0] > 0) & (peaks[1] > 0)).squeeze(1)
    if not there.any():
        return one.new_ones(())
    # The largest element first: the squares of a confident network's gradient vanish in float32.
    units = [F.normalize(side[there] / peak[there], dim=1) for side, peak in zip((one, other), peaks, strict=True)]
    return (units[0] * units[1]).sum(dim=1).mean()


def _gradient(model: nn.Module, x: Tensor, y: Tensor, *, differentiable: bool = False) -> Tensor:
    """Return d CE / d x of each sample, (N, C, H, W); `differentiable`: as a function of the weights."""
    point = x.detach().requires_grad_(True)
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext():
        return input_gradient(summed_cross_entropy(model(point), y), point, differentiable=differentiable)
