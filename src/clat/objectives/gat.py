"""GAT, Guided Adversarial Training (Sriramanan et al., NeurIPS 2020): one step, guided by the change of outputs.

    min CE(F(x), y) + lambda * mean ||p(x') - p(x)||_2^2,    p = softmax F

x' takes one step of eps from x + eps/2 * (random signs) along the gradient of CE(F(x'), y), to which every second
batch of an epoch adds the term lambda * ||p(x') - p(x)||_2^2, and is projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clat.attacks.ascent import ascend, generator_for
from clat.attacks.ball import Ball
from clat.attacks.draws import normal_like
from clat.attacks.fgsm import one_step_alpha
from clat.attacks.pgd import summed_cross_entropy
from clat.attacks.settings import Attack
from clat.core.checks import within
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight, cross_entropy
from clat.objectives.score import lse, probabilities


@dataclass(frozen=True, kw_only=True)
class GAT(InnerAttack):
    """Training with GAT; the defaults are those of the released code for CIFAR-10.

    In the attack p(x) is a constant, of the network as it is attacked (in the released code: on batch statistics).
    """

    one_step = True

    name: Literal["gat"] = "gat"
    steps: int = 1
    lambda_: Annotated[float, Field(alias="lambda")] = 10.0
    """The weight of the change of outputs, in the attack and in the loss (`lambda` in a recipe)."""
    late_lambda: float = 40.0
    """The weight late in the stage."""
    late: float = 0.86
    """The part of the stage after which `late_lambda` holds: after 86 of 100 epochs. 1: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value in (("lambda", self.lambda_), ("late_lambda", self.late_lambda)):
            check_weight("GAT", what, value)
        within("GAT: late", self.late, 0, 1)

    def attack(self, step: Step, *, random_start: bool = False) -> Attack:
        return one_step_alpha(super().attack(step, random_start=random_start), given=self.alpha is not None)

    def weight(self, step: Step) -> float:
        """Return lambda as it is at this step of the stage.

        Args:
            step: says how much of the stage is done.

        Returns:
            `lambda_`, or `late_lambda` late in the stage.
        """
        late = float(step.progress) >= self.late  # rounded as the setting is: 9/10 is less than the float 0.9
        return self.late_lambda if late else self.lambda_

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step)
        ball = Ball.around(x, attack.threat)
        direction = ball.unit(normal_like(x, generator_for(x.device, step.seed)))  # under linf: random signs
        start = ball.project(x + 0.5 * ball.eps * direction)
        guided = step.number % 2 == 1
        with modes.attack_mode(model, self.attack_bn):
            reference = None
            if guided:
                with torch.no_grad():
                    reference = probabilities(model(x))

            def value(z: Tensor) -> Tensor:
                logits = model(z)
                entropy = summed_cross_entropy(logits, y)
                if reference is None:
                    return entropy
                return entropy + self.weight(step) * lse(probabilities(logits), reference).sum()

            return (ascend(value, start, ball, alpha=attack.step_size, steps=1),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        moved, logits = model(x_adv), model(x)  # in this order: BatchNorm's statistics follow the last most
        natural = cross_entropy(logits, y, self.label_smoothing)
        change = lse(probabilities(moved), probabilities(logits)).mean()
        total = natural + self.weight(step) * change
        return Loss(total, {"cross_entropy": natural.detach(), "output_change": change.detach()})
