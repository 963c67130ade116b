"""One training step: find the examples, take the loss on them, go back through it, move the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from clat.attacks.draws import batch_parts, part_of_batch
from clat.core.errors import ClatError
from clat.network.frozen_norm import frozen_norms_lean
from clat.objectives import Loss, Objective, Step
from clat.runtime.callback import StepCost
from clat.runtime.callback_list import CallbackList
from clat.runtime.engine import Engine
from clat.training.flags import StepFlags
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
    micro_batch: int | None = None,
    flags: StepFlags | None = None,
) -> Loss:
    """Take one optimizer step on the loss of a batch.

    theta <- theta - rate * the optimizer's direction for grad cost(theta, examples(theta)), theta what moves. The
    gradient is the mean over the processes. The callbacks are called where their hooks say.

    Args:
        objective: gives the examples and the loss on them.
        model: the network; its parameters in `trainable` move.
        x: images (N, C, H, W) in [0, 1], this process's share of the batch.
        y: labels (N,) int64, or class probabilities (N, K).
        step: the place in the stage, with the seed of this step.
        trainable: what moves, its optimizer, and the norm that the gradient is clipped to.
        callbacks: the stage's.
        engine: precision and processes.
        rate: the learning rate.
        micro_batch: at most so many images are in the network at a time, and their gradients are added up: what it
            computes is the same, but for BatchNorm that normalises by the batch. None: the whole batch.
        flags: sent with the step; None: none are.

    Returns:
        The loss before the step, detached; where it does not depend on theta, as in a step that a network runs
        without the layers that move, it says so in its part "without_gradient".

    Raises:
        NotFinite: the loss is infinite or not a number in some process; nothing has moved.
    """
    parts = batch_parts(len(x), micro_batch)
    step = step if len(parts) == 1 else replace(step, once=False)  # or the shared passes of all parts would pile up
    optimizer = trainable.optimizer

    @contextmanager
    def computing(rows: slice) -> Iterator[None]:
        with engine.autocast(), frozen_norms_lean(model), part_of_batch(rows.start, len(x)):
            yield

    examples = []
    for rows in parts:
        with computing(rows):
            examples.append(objective.examples(model, x[rows], y[rows], step))

    def cost(number: int) -> Loss:
        rows = parts[number]
        with computing(rows):
            found = objective.cost(model, x[rows], y[rows], examples[number], step)
            if not isinstance(found, Loss):
                raise ClatError(
                    f"objective '{objective.name}' costs a {type(found).__name__}, expected "
                    "clat.objectives.Loss(total, parts)"
                )
            return _share(found, len(x[rows]), len(x))

    def total(number: int) -> Tensor:
        return cost(number).total

    losses, reached, checks = list[Loss](), False, list[Tensor]()
    with callbacks.around_loss(StepCost([partial(total, k) for k in range(len(parts))])):
        for number in range(len(parts)):
            loss = cost(number)
            checks.append(torch.isfinite(loss.total))
            if number == 0:
                optimizer.zero_grad(set_to_none=True)
            callbacks.before_backward()
            reached = reached or loss.total.requires_grad
            if loss.total.requires_grad:
                loss.total.backward()
            losses.append(Loss(loss.total.detach(), loss.parts))
    # Read only now: before the backward pass a GPU would run dry, and processes that share blocks go back alike.
    finite = bool(torch.stack(checks).all())
    own = (False, False) if flags is None else flags.own()
    failed, *agreed = engine.average_gradients(trainable.parameters.values(), [not finite, *own])
    if flags is not None:
        flags.agree(*agreed)
    if failed:
        optimizer.zero_grad(set_to_none=True)
        raise NotFinite
    callbacks.after_backward()
    if trainable.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(trainable.parameters.values(), trainable.clip_norm)
    set_rate(optimizer, rate)
    with callbacks.around_optimizer_step(optimizer):
        optimizer.step()
    callbacks.after_step()
    whole = _sum(losses)
    return whole if reached else Loss(whole.total, whole.parts | {"without_gradient": torch.ones(())})


def _share(loss: Loss, count: int, whole: int) -> Loss:
    """Return what the mean over `count` images adds to that over the `whole` batch."""
    if count == whole:
        return loss
    share = count / whole
    return Loss(share * loss.total, {name: share * value for name, value in loss.parts.items()})


def _sum(losses: list[Loss]) -> Loss:
    if len(losses) == 1:
        return losses[0]
    parts = {name: torch.stack([loss.parts[name] for loss in losses]).sum() for name in losses[0].parts}
    return Loss(torch.stack([loss.total for loss in losses]).sum(), parts)
