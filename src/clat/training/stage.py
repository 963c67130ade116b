"""How a stage stands: the callbacks that joined it, and what moves in it until its next selection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.core.seeds import derive_seed
from clat.criticality.selection import trainable_parameters, updating_batch_norms
from clat.data.loader import Loader
from clat.network import modes
from clat.network.layers import Layer
from clat.objectives import Step
from clat.recipe.schema import Recipe, StageConfig
from clat.runtime.callback import CallbackList, StageContext
from clat.runtime.engine import Engine
from clat.training.optimizer import build_optimizer, momentum_of
from clat.training.state import Progress


@dataclass
class TrainableSet:
    """What moves: `parameters` by name, the `optimizer` over them, and the `step` that their objective is told."""

    step: Step
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.SGD

    @property
    def count(self) -> int:
        """How many numbers move."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def momentum(self) -> dict[str, Tensor]:
        return momentum_of(self.optimizer, self.parameters)

    def drop_removed(self, model: nn.Module) -> None:
        """Leave out parameters that a callback took out of the network again."""
        own = {id(parameter) for parameter in model.parameters()}
        self.parameters = {name: p for name, p in self.parameters.items() if id(p) in own}


def make_trainable(
    model: nn.Module,
    recipe: Recipe,
    stage: StageConfig,
    layers: Iterable[Layer],
    callbacks: CallbackList,
    progress: Progress,
    momentum: dict[str, Tensor],
) -> TrainableSet:
    """Have the selected `layers` move, or the whole network where the stage selects none: flags, BatchNorm modes,
    an optimizer that goes on with `momentum` where there is some."""
    layers = tuple(layers)
    step = Step(
        layers,
        eps=recipe.eps,
        norm=recipe.norm,
        state=progress.objective_state,
        callback=callbacks.members.get("objective"),
        once=not callbacks.members,
    )
    model.requires_grad_(False)
    modes.set_training(model, updating_batch_norms(model, layers, stage.bn_policy))
    parameters = callbacks.choose_parameters(
        trainable_parameters(model, layers if stage.selection is not None else None)
    )
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return TrainableSet(
        step, parameters, build_optimizer(parameters, stage.optimizer or recipe.optimizer, momentum)
    )


def start_callbacks(
    model: nn.Module, recipe: Recipe, number: int, engine: Engine, loader: Loader, heldout: tuple[Tensor, Tensor]
) -> CallbackList:
    """The callbacks of stage `number` enter the network: the objective's own, then the treatments'."""
    stage = recipe.stages[number]
    context = StageContext(
        model=model,
        engine=engine,
        loader=loader,
        heldout=heldout,
        eps=str(recipe.eps),
        norm=recipe.norm,
        seed=derive_seed(recipe.seed, "stage", number),
        epochs=stage.epochs,
        batch_size=recipe.batch_size,
        replays=stage.objective.replays,
    )
    own = stage.objective.on_stage_start(context)
    members = [] if own is None else [("objective", own)]
    for treatment in stage.treatments:
        members.append((treatment.name, treatment.on_stage_start(context)))
    return CallbackList(members)
