"""One training step: find the examples, take the loss on them, go back through it, move the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat.network.frozen_norm import frozen_norms_lean
from clat.objectives import Loss, Objective, Step
from clat.runtime.callback import CallbackList
from clat.runtime.engine import Engine
from clat.training.optimizer import set_rate
from clat.training.trainable import TrainableSet


class NotFinite(ArithmeticError):
    """The loss is infinite or not a number in some process. Nothing has moved."""


def take_step(
    objective: Objective,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    step: Step,
    *,
    trainable: TrainableSet,
    callbacks: CallbackList,
    engine: Engine,
    rate: float,
) -> Loss:
    """theta <- theta - rate * the optimizer's direction for grad cost(theta, examples(theta)), theta what moves.

    `x`: (N, C, H, W) in [0, 1], `y`: labels or probabilities, this process's share of the batch; the gradient is
    the mean over the processes. `step`: for this step, with its seed. The callbacks are called where their hooks
    say. Returns the loss before the step, detached; where it does not depend on theta, as in a step that a network
    runs without the layers that move, it says so in its part "without_gradient". Raises NotFinite.
    """
    with engine.autocast(), frozen_norms_lean(model):
        examples = objective.examples(model, x, y, step)

    def cost() -> Loss:
        with engine.autocast(), frozen_norms_lean(model):
            return objective.cost(model, x, y, examples, step)

    with callbacks.around_loss(lambda: cost().total):
        loss = cost()
        if engine.any_of(not torch.isfinite(loss.total)):
            raise NotFinite
        trainable.optimizer.zero_grad(set_to_none=True)
        callbacks.before_backward()
        reached = loss.total.requires_grad
        if reached:
            loss.total.backward()
    engine.average_gradients(trainable.parameters.values())
    callbacks.after_backward()
    if trainable.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(trainable.parameters.values(), trainable.clip_norm)
    set_rate(trainable.optimizer, rate)
    with callbacks.around_optimizer_step(trainable.optimizer):
        trainable.optimizer.step()
    callbacks.after_step()
    parts = loss.parts if reached else loss.parts | {"without_gradient": torch.ones(())}
    return Loss(loss.total.detach(), parts)
