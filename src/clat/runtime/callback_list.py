"""Call the callbacks of a stage as if they were one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clat.network.layers import Layer
from clat.runtime.callback import StageCallback, StateDict


class CallbackList(StageCallback):
    """The callbacks of a stage, in the order in which they joined, as one."""

    def __init__(self, members: Iterable[tuple[str, StageCallback]] = ()) -> None:
        super().__init__()
        self.members = dict(members)
        self.redrawn = frozenset().union(*(one.redrawn for one in self.members.values()))

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
        """Return the scalars of the members that have any.

        Returns:
            For each member's name its scalars by name.
        """
        return {name: dict(one.scalars) for name, one in self.members.items() if one.scalars}

    def restore_scalars(self, figures: dict[str, dict[str, float]]) -> None:
        """Put back what `all_scalars` returned.

        Args:
            figures: for each member's name its scalars by name.
        """
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
        for one in reversed(self.members.values()):  # who joined last changed the network last
            state = one.export_state(state)
        return state

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        for one in self.members.values():
            one.after_epoch(check)

    def on_stage_end(self) -> dict[str, Any]:
        return {name: facts for name, one in reversed(self.members.items()) if (facts := one.on_stage_end())}


def _prefixed(states: dict[str, StateDict]) -> StateDict:
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
