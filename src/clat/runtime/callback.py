"""What a stage carries beside the network: an average of its weights, a low-rank branch, a mask, a perturbation.

An objective that has state, and every treatment of the weights (`clat.treatments`), brings a `StageCallback` to the
stage. The training loop calls its few hooks, saves its tensors and numbers with the run's state, and lets it leave
at the end of the stage, when the network must be plain again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
    """What a callback may know of the stage it joins.

    `model`: the network, on its device; `engine`: precision and processes (`autocast`, `images`, `average`,
    `total`, `from_first`); `loader`: the training batches; `heldout`: (x, y) cut from train, the only images that
    may decide anything; `threat`: the threat model; `seed`: of this stage, from which a callback derives its
    own; `epochs`: of the stage; `batch_size`: for passes over the held-out images; `replays`: optimizer steps on
    each batch; `once`: no treatment looks at a loss twice (`clat.objectives.Step.once`); `micro_batch`: images that
    may be in the network at a time (None: all of a batch).
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
        """Optimizer steps, each of which ends with `StageCallback.after_step`."""
        return self.loader.num_batches * self.replays


@dataclass(frozen=True)
class StepCost:
    """The loss of a step, on the whole batch where it is called."""

    parts: Sequence[Callable[[], Tensor]]
    """Each evaluates what a part of the batch adds to the loss: one at a time takes the memory of one."""

    def __call__(self) -> Tensor:
        return torch.stack([part() for part in self.parts]).sum() if len(self.parts) > 1 else self.parts[0]()


class StageCallback:
    """Every hook has a default that does nothing.

    What must survive a killed run is in `tensors()`, `per_process_state()` or `scalars`; everything else must
    follow from the settings, the context and these.
    """

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        """Small state. Saved, and shown in the log of each epoch."""

    def tensors(self) -> StateDict:
        """Tensors to save, by name, the same in every process."""
        return {}

    def per_process_state(self) -> StateDict:
        """Tensors to save of which each process has its own, such as what it carries for its share of a batch."""
        return {}

    def restore(self, tensors: StateDict) -> None:
        """Go on from saved `tensors`, this process's own among them, on the CPU; `numbers` are put back already."""

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Called at the start of the stage and whenever its selection changes, after BatchNorm modes and
        requires_grad flags are set: which parameters move, given those that the selection lets move. Momentum is
        kept by the names that are returned."""
        return parameters

    def on_selection(self, layers: tuple[Layer, ...], *, seed: int, first: bool) -> None:
        """Called before the first step of the stage and after each re-selection: `layers` are the selected ones
        (none: the whole network moves), `first` is true once a stage, `seed` belongs to this call. What it finds
        out must be the same in every process, and must be kept in `scalars` or `tensors()`."""

    def learning_rate(self, rate: float) -> float:
        """The learning rate of a step, given the schedule's."""
        return rate

    def around_loss(self, cost: Callable[[], Tensor]) -> AbstractContextManager[None]:
        """Entered around the loss and its backward pass. `cost()` evaluates the same loss on the same examples,
        for treatments that look ahead; it may update BatchNorm statistics like any training pass. A `StepCost` can
        be evaluated part by part."""
        return nullcontext()

    def before_backward(self) -> None:
        """The loss of the step, or of a part of its batch, is computed, and its graph still whole. Not called where
        a treatment looks ahead."""

    def after_backward(self) -> None:
        """Gradients are complete, averaged over the processes, and may be changed."""

    def around_optimizer_step(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Entered around the optimizer's step, for what must undo part of it, momentum included."""
        return nullcontext()

    def after_step(self) -> None:
        """The optimizer has moved the parameters."""

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Inside, the network computes what it would after the stage: entered around held-out checks and saving."""
        return nullcontext()

    def export_state(self, state: StateDict) -> StateDict:
        """From the state dict of the network as it stands, that of the plain network it is evaluated as."""
        return state

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        """An epoch is over; `check`: its held-out accuracies ("heldout_clean", "heldout_robust", each in [0, 1]),
        if there was a check."""

    def on_stage_end(self) -> dict[str, Any]:
        """The stage is over: leave the network plain, with the weights that the next stage starts from. Returns
        what to record, JSON-able."""
        return {}


class CallbackList(StageCallback):
    """The callbacks of a stage, in the order in which they joined, as one."""

    def __init__(self, members: Iterable[tuple[str, StageCallback]] = ()) -> None:
        super().__init__()
        self.members = dict(members)

    def __getitem__(self, name: str) -> StageCallback:
        return self.members[name]

    def tensors(self) -> StateDict:
        return _prefixed({name: one.tensors() for name, one in self.members.items()})

    def per_process_state(self) -> StateDict:
        return _prefixed({name: one.per_process_state() for name, one in self.members.items()})

    def restore(self, tensors: StateDict) -> None:
        for name, one in self.members.items():
            prefix = f"{name}."
            one.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})

    def all_scalars(self) -> dict[str, dict[str, float]]:
        """The members' numbers, by member."""
        return {name: dict(one.scalars) for name, one in self.members.items() if one.scalars}

    def restore_scalars(self, figures: dict[str, dict[str, float]]) -> None:
        for name, numbers in figures.items():
            self.members[name].scalars = dict(numbers)

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        for one in self.members.values():
            parameters = one.choose_parameters(parameters)
        return parameters

    def on_selection(self, layers: tuple[Layer, ...], *, seed: int, first: bool) -> None:
        for one in self.members.values():
            one.on_selection(layers, seed=seed, first=first)

    def learning_rate(self, rate: float) -> float:
        for one in self.members.values():
            rate = one.learning_rate(rate)
        return rate

    @contextmanager
    def around_loss(self, cost: Callable[[], Tensor]) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self.members.values():
                stack.enter_context(one.around_loss(cost))
            yield

    def before_backward(self) -> None:
        for one in self.members.values():
            one.before_backward()

    def after_backward(self) -> None:
        for one in self.members.values():
            one.after_backward()

    @contextmanager
    def around_optimizer_step(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self.members.values():
                stack.enter_context(one.around_optimizer_step(optimizer))
            yield

    def after_step(self) -> None:
        for one in self.members.values():
            one.after_step()

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self.members.values():
                stack.enter_context(one.evaluation_weights())
            yield

    def export_state(self, state: StateDict) -> StateDict:
        for one in reversed(self.members.values()):
            state = one.export_state(state)
        return state

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        for one in self.members.values():
            one.after_epoch(check)

    def on_stage_end(self) -> dict[str, Any]:
        return {name: facts for name, one in reversed(self.members.items()) if (facts := one.on_stage_end())}


def _prefixed(states: dict[str, StateDict]) -> StateDict:
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
