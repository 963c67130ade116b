"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020): train at the worst point near the weights.

    min over w of   max over v in V of   cost(w + v),      V: ||v_l|| <= gamma ||w_l|| for every tensor l

The maximisation is one step, from the gradient of the same cost on the same adversarial examples. The published
code takes it with a copy of the network: w' = w + lr * g after one SGD step on -cost, and the direction is
||w|| (w' - w) / ||w' - w||, tensor by tensor. Since w' - w = lr * g, the copy's learning rate cancels and this is

    v = ||w|| g / ||g||,

so no copy is needed; a gradient does. The published code also lets the optimizer step on the moved weights and
subtracts gamma * v afterwards. Here the weights are put back before the step. The gradient is the same, and so is
the update, except that weight decay acts on w and not on w + gamma * v, and that no rounding is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.network import modes
from clat.network.exchange import exchanged
from clat.network.gradients import gradients_by
from clat.runtime.callback import StageCallback, StageContext, StepCost
from clat.treatments.base import Treatment


@dataclass(frozen=True, kw_only=True)
class AWP(Treatment):
    """Loss and gradient at w + gamma * v instead of w, under any objective.

    Of what the stage moves, tensors of two or more dimensions are perturbed: convolutions and linear layers, not
    biases or the parameters of BatchNorm. Costs one more evaluation and differentiation of the loss a step; the
    inner attack, on the unperturbed weights, is not repeated.
    """

    name: Literal["awp"] = "awp"
    gamma: float = 0.01
    """Size of the perturbation relative to each tensor's norm (paper: 0.01 for PGD-AT, 0.005 for TRADES)."""
    warmup: int = 0
    """Epochs of the stage without perturbation (released code: 0 for PGD-AT, 10 for TRADES)."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise ClatError(f"awp.gamma is {self.gamma}: expected a size of at least 0, such as 0.01")
        if self.warmup < 0:
            raise ClatError(f"awp.warmup is {self.warmup}: expected a number of epochs, at least 0")

    def check(self, epochs: int) -> None:
        if self.warmup >= epochs:
            raise ClatError(
                f"awp.warmup is {self.warmup}: the stage has {counted(epochs, 'epoch')}, so it would never act"
            )

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return WeightPerturbation(self, context)


class WeightPerturbation(StageCallback):
    """Perturbation of the weights during the loss and its backward pass."""

    def __init__(self, settings: AWP, context: StageContext) -> None:
        super().__init__()
        self.settings, self.model, self.engine = settings, context.model, context.engine
        self.weights: dict[str, nn.Parameter] = {}
        self.scalars = {"epochs": 0}

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        self.weights = {name: parameter for name, parameter in parameters.items() if parameter.dim() > 1}
        return parameters

    @contextmanager
    def around_loss(self, cost: Callable[[], Tensor]) -> Iterator[None]:
        # A treatment that joined later, such as LoRA, may have left some of them frozen.
        weights = {name: weight for name, weight in self.weights.items() if weight.requires_grad}
        if self.scalars["epochs"] < self.settings.warmup or self.settings.gamma == 0 or not weights:
            yield
            return
        moved = perturbed(weights, self._gradients(cost, weights), self.settings.gamma)
        with exchanged(weights, moved):
            del moved
            yield

    def _gradients(self, cost: Callable[[], Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients of the cost by those of the weights that it depends on, over all processes.

        BatchNorm is as in any training pass, but for its stored statistics, which only the pass at the perturbed
        weights updates.
        """
        gradients: dict[str, Tensor] = {}
        with modes.preserve_statistics(self.model):
            tensors = list(weights.values())
            for part in cost.parts if isinstance(cost, StepCost) else (cost,):
                found = self.engine.completed(gradients_by(part(), tensors), tensors)
                for name, g in zip(weights, found, strict=True):
                    if g is not None:
                        gradients[name] = gradients[name] + g if name in gradients else g
        self.engine.average(gradients.values())
        return gradients

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        self.scalars["epochs"] += 1


@torch.no_grad()
def perturbed(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], gamma: float) -> dict[str, Tensor]:
    """Return w + gamma ||w|| g / ||g|| for each tensor that has a gradient (Wu, Xia and Wang 2020).

    Args:
        weights: w, by name.
        gradients: g, by name, of some of the weights.
        gamma: size of the perturbation relative to each tensor's norm.

    Returns:
        New tensors by the names of `gradients`; w itself where the gradient is zero.
    """
    moved = {}
    for name, gradient in gradients.items():
        weight, length = weights[name], gradient.norm()
        scale = torch.where(length > 0, gamma * weight.norm() / length, torch.zeros_like(length))
        moved[name] = weight + scale * gradient
    return moved
