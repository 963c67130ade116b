"""The parameters that move in a stage until its next selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from clat.criticality.selection import trainable_parameters, updating_batch_norms
from clat.network import modes
from clat.network.layers import Layer
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


def freeze_and_choose(
    model: nn.Module, layers: Sequence[Layer], batch_norm: str, *, whole: bool = False
) -> dict[str, nn.Parameter]:
    """Freeze every parameter, set the modes of training for a stage, and choose what is to move in it.

    Whoever moves it gives it its gradient again, as a treatment may have other parameters move in its place.

    Args:
        model: the network, whose flags change.
        layers: the ones that move.
        batch_norm: one of `clat.network.modes.BN_POLICIES`.
        whole: the whole network moves, and `layers` is empty.

    Returns:
        Name -> parameter, of those that are to move; all are still frozen.
    """
    model.requires_grad_(False)
    updating = updating_batch_norms(model, layers, batch_norm)
    moving = None if whole else [model.get_submodule(layer.name) for layer in layers]
    modes.set_training(model, updating, moving)
    return trainable_parameters(model, None if whole else layers)
