"""Let a stage carry more than the network: an average of its weights, a low-rank branch, a mask, a perturbation.

An objective that has state, and every treatment of the weights (`clat.treatments`), brings a `StageCallback` to the
stage. The training loop calls its few hooks, saves its tensors and scalars with the run's state, and lets it leave
at the end of the stage, when the network must be plain again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.threat_model import ThreatModel
from clat.data.loader import Loader
from clat.network.layers import Layer
from clat.runtime.engine import Engine

StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The stage that a callback joins, as far as it may know it.

    Attributes:
        model: the network, on its device.
        engine: precision and processes (`autocast`, `images`, `average`, `total`, `from_first`).
        loader: the training batches.
        heldout: (x, y) cut from train, the only images that may decide anything.
        threat: the threat model.
        seed: the stage's, from which a callback derives its own.
        epochs: how many the stage has.
        batch_size: for passes over the held-out images.
        replays: optimizer steps on each batch.
        once: no treatment looks at a loss twice (`clat.objectives.Step.once`).
        micro_batch: images that may be in the network at a time (None: all of a batch).
    """

    model: nn.Module
    engine: Engine
    loader: Loader
    heldout: tuple[Tensor, Tensor]
    threat: ThreatModel
    seed: int
    epochs: int
    batch_size: int
    replays: int = 1
    once: bool = False
    micro_batch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of an epoch, each of which ends with `StageCallback.after_step`."""
        return self.loader.num_batches * self.replays


@dataclass(frozen=True)
class StepCost:
    """The loss of a step, on the whole batch where it is called."""

    parts: Sequence[Callable[[], Tensor]]
    """Each evaluates what a part of the batch adds to the loss: one at a time takes the memory of one."""

    def __call__(self) -> Tensor:
        return torch.stack([part() for part in self.parts]).sum() if len(self.parts) > 1 else self.parts[0]()


class StageCallback:
    """The hooks of a stage, each of which does nothing unless a callback overrides it.

    What must survive a killed run is in `tensors()`, `per_process_state()` or `scalars`; everything else must
    follow from the settings, the context and these.
    """

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        """Small state. Saved, and shown in the log of each epoch."""
        self.redrawn: frozenset[str] = frozenset()
        """Names of parameters that got new values as the stage began: no optimizer remembers anything of them."""

    def tensors(self) -> StateDict:
        """Return the tensors to save, the same in every process.

        Returns:
            Tensors by name, which the callback may go on changing.
        """
        return {}

    def per_process_state(self) -> StateDict:
        """Return the tensors to save of which each process has its own.

        Returns:
            Tensors by name, such as what a process carries for its share of a batch; shaped alike in all processes.
        """
        return {}

    def restore(self, tensors: StateDict) -> None:
        """Go on from saved tensors; the `scalars` are put back already.

        Args:
            tensors: what `tensors` and this process's `per_process_state` returned, on the CPU.
        """

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return which parameters move. Momentum is kept by the names that are returned.

        Called at the start of the stage and whenever its selection changes, after BatchNorm modes and requires_grad
        flags are set.

        Args:
            parameters: those that the selection lets move, by name.

        Returns:
            Those that the optimizer is to move, by name.
        """
        return parameters

    def on_selection(self, layers: tuple[Layer, ...], *, seed: int, first: bool) -> None:
        """Take note of the selection, before the first step of the stage and after each re-selection.

        What this finds out must be the same in every process, and must be kept in `scalars` or `tensors()`.

        Args:
            layers: the selected layers; none where the whole network moves.
            seed: one that belongs to this call alone.
            first: true once a stage, at its start.
        """

    def learning_rate(self, rate: float) -> float:
        """Return the learning rate of a step.

        Args:
            rate: the schedule's, or what the callback before made of it.

        Returns:
            The rate, at least 0.
        """
        return rate

    def around_loss(self, cost: Callable[[], Tensor]) -> AbstractContextManager[None]:
        """Return a context that is entered around the loss and its backward pass.

        Args:
            cost: evaluates the same loss on the same examples, for treatments that look ahead; it may update
                BatchNorm statistics like any training pass. A `StepCost` can be evaluated part by part.

        Returns:
            The context.
        """
        return nullcontext()

    def before_backward(self) -> None:
        """Act on the loss of the step, or of a part of its batch: it is computed, and its graph still whole.

        Not called where a treatment looks ahead.
        """

    def after_backward(self) -> None:
        """Act on the gradients: they are complete, averaged over the processes, and may be changed."""

    def around_optimizer_step(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Return a context that is entered around the optimizer's step, for what must undo part of it.

        Args:
            optimizer: the one that moves the parameters, whose state (momentum) may be changed.

        Returns:
            The context.
        """
        return nullcontext()

    def after_step(self) -> None:
        """Act on the parameters that the optimizer has moved."""

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the network computes what it would after the stage.

        Returns:
            The context, which is entered around held-out checks and saving.
        """
        return nullcontext()

    def export_state(self, state: StateDict) -> StateDict:
        """Return the state dict of the plain network that the network is evaluated as.

        Args:
            state: the state dict of the network as it stands.

        Returns:
            The entries of the plain network, by its names.
        """
        return state

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        """Act on the end of an epoch.

        Args:
            check: its held-out accuracies ("heldout_clean", "heldout_robust", each in [0, 1]), if there was a
                check.
        """

    def on_stage_end(self) -> dict[str, Any]:
        """Leave the network plain, with the weights that the next stage starts from.

        Returns:
            What to record of the stage, as plain data that JSON can hold.
        """
        return {}
