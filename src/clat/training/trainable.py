"""The parameters that move in a stage until its next selection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from clat.objectives import Step
from clat.training.optimizer import OptimizerState, state_of


@dataclass
class TrainableSet:
    """The parameters that move in a stage until its next selection, with their optimizer."""

    step: Step
    """The place in the stage and the layers, as their objective is told."""
    parameters: dict[str, nn.Parameter]
    """Name -> parameter."""
    optimizer: torch.optim.Optimizer
    """Moves `parameters`."""
    clip_norm: float | None = None
    """The longest gradient that a step takes as it is; None: any."""

    @property
    def count(self) -> int:
        """Return how many numbers move."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def optimizer_state(self) -> OptimizerState:
        """Return what the optimizer remembers, by parameter name."""
        return state_of(self.optimizer, self.parameters)

    def drop_removed(self, model: nn.Module) -> None:
        """Leave out parameters that a callback took out of the network again.

        Args:
            model: the network as it is now.
        """
        own = {id(parameter) for parameter in model.parameters()}
        self.parameters = {name: p for name, p in self.parameters.items() if id(p) in own}
