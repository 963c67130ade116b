"""A stage in progress: its callbacks, what moves in it until its next selection, and the step that moves it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from clat.core.notices import listening
from clat.core.seeds import derive_seed
from clat.data.loader import Loader
from clat.network.layers import Layer, layers_called
from clat.objectives import Loss, Step
from clat.recipe.schema import Recipe
from clat.runtime.callback import StageContext
from clat.runtime.callback_list import CallbackList
from clat.runtime.engine import Engine
from clat.training.flags import StepFlags
from clat.training.frozen import Frozen, movable_layers
from clat.training.optimizer import OptimizerState, build_optimizer, rates_by_depth
from clat.training.step import take_step
from clat.training.trainable import TrainableSet, freeze_and_choose


class StageRunner:
    """One stage of a recipe on a network: enter it, select, step, leave it.

    The training loop decides when; the numbers of a run (which epoch, which step) come in as arguments, so that a
    loop of a user's own can call `train_step` just as well.

    Args:
        recipe: the run's.
        number: the stage's, from 0.
        model: the network on its device; the stage's callbacks may change its structure until `finish`.
        engine: device, precision and processes.
        loader: the training batches.
        heldout: (x, y) on the device, the only images that may decide anything.
    """

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        model: nn.Module,
        engine: Engine,
        loader: Loader,
        heldout: tuple[Tensor, Tensor],
        frozen: Collection[str] = (),
    ) -> None:
        self.recipe, self.number, self.model = recipe, number, model
        self.engine, self.loader = engine, loader
        self.config = recipe.stages[number]
        self.frozen = Frozen(model, frozen)
        rule = self.config.selection

        def found() -> Sequence[Layer]:
            return () if rule is None else rule.candidates(model, heldout[0][:1])

        # What is frozen is told on the plain network: LoRA renames its weights, and adds some that are not.
        with listening(lambda text: None):  # what is left out is said below
            movable = {layer.name for layer in movable_layers(model, found(), frozen)} if frozen else None
        self.callbacks = _started_callbacks(recipe, number, model, engine, loader, heldout)
        self.candidates = [layer for layer in found() if movable is None or layer.name in movable]
        self.trainable: TrainableSet

    def make_trainable(self, selected: Iterable[str] | None, state: OptimizerState) -> None:
        """Have the selected layers move: flags, BatchNorm modes, and an optimizer.

        Args:
            selected: names of the layers; None where the stage has no selection, and the whole network moves.
            state: what an earlier optimizer remembers of parameters that go on moving; empty: nothing.
        """
        layers = tuple(layers_called(self.candidates, selected or ()))
        step = Step(
            layers,
            threat=self.recipe.threat,
            callback=self.callbacks.members.get("objective"),
            once=not self.config.treatments,
        )
        whole = self.config.selection is None
        found = self.frozen.without(
            self.model, freeze_and_choose(self.model, layers, self.config.bn_policy, whole=whole)
        )
        self.frozen.keep_statistics()
        parameters = self.frozen.without(self.model, self.callbacks.choose_parameters(found))
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        config = self.recipe.optimizer_of(self.number)
        optimizer = build_optimizer(parameters, config, state, rates_by_depth(self.model, config.layer_decay))
        self.trainable = TrainableSet(step, parameters, optimizer, config.clip_norm)

    def after_selection(self, epoch: int, *, first: bool) -> None:
        """Tell the callbacks which layers are selected.

        Args:
            epoch: of the run, from 0.
            first: whether the stage begins.
        """
        seed = derive_seed(self.recipe.seed, "begin", epoch)
        self.callbacks.on_selection(self.trainable.step.layers, seed=seed, first=first)

    def train_step(
        self, x: Tensor, y: Tensor, *, epoch: int, number: int, rate: float, flags: StepFlags | None = None
    ) -> Loss:
        """Train on a batch: as many optimizer steps on it as the objective asks for, each with a seed of its own.

        Args:
            x: images, (N, C, H, W) in [0, 1], this process's share of the batch.
            y: labels (N,) int64, or class probabilities (N, K).
            epoch: the run's epoch, from 0.
            number: the batch within the epoch, from 0; together they decide the seed, and how much of eps a
                schedule grants.
            rate: the learning rate.
            flags: sent with the steps; None: none are.

        Returns:
            The loss before the last of these steps, detached.

        Raises:
            NotFinite: the loss is infinite or not a number; nothing has moved in that step.
        """
        place = self._place(epoch, number)
        replays = self.config.objective.replays
        for replay in range(number * replays, (number + 1) * replays):
            seed = derive_seed(self.recipe.seed, "attack", epoch, replay, self.engine.rank)
            loss = take_step(
                self.config.objective,
                self.model,
                x,
                y,
                replace(place, seed=seed),
                trainable=self.trainable,
                callbacks=self.callbacks,
                engine=self.engine,
                rate=rate,
                micro_batch=self.recipe.micro_batch,
                flags=flags,
            )
        return loss

    def _place(self, epoch: int, number: int) -> Step:
        """Return the step of batch `number` of `epoch`, but for its seed."""
        batches = self.loader.num_batches
        done = (epoch - self.recipe.first_epoch(self.number)) * batches + number
        progress, schedule = Fraction(done, self.config.epochs * batches), self.config.eps_schedule
        share = Fraction(1) if schedule is None else schedule.share(progress)
        return replace(self.trainable.step, progress=progress, number=number, eps_share=share)

    def finish(self) -> dict[str, Any]:
        """Leave the stage, with a plain network.

        Returns:
            What the callbacks have to record, by callback; JSON can hold it.
        """
        facts = self.callbacks.on_stage_end()
        self.callbacks = CallbackList()
        self.trainable.drop_removed(self.model)
        return facts


def _started_callbacks(
    recipe: Recipe, number: int, model: nn.Module, engine: Engine, loader: Loader, heldout: tuple[Tensor, Tensor]
) -> CallbackList:
    """Return the callbacks of a stage, which enter the network: the objective's own, then the treatments'."""
    stage = recipe.stages[number]
    context = StageContext(
        model=model,
        engine=engine,
        loader=loader,
        heldout=heldout,
        threat=recipe.threat,
        seed=derive_seed(recipe.seed, "stage", number),
        epochs=stage.epochs,
        batch_size=recipe.batch_size,
        replays=stage.objective.replays,
        once=not stage.treatments,
        micro_batch=recipe.micro_batch,
    )
    own = stage.objective.on_stage_start(context)
    members = [] if own is None else [("objective", own)]
    for treatment in stage.treatments:
        members.append((treatment.name, treatment.on_stage_start(context)))
    return CallbackList(members)
