"""The training loop: stages, selections, epochs, steps, and the checks and checkpoints between them.

Everything random is derived from the seed and the place in the run, so a state (`clat.training.state`) plus the
recipe is the whole truth about where a run stands: a killed and resumed run does the same arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.seeds import derive_seed
from clat.data.loader import Loader
from clat.evaluation.record import TEST_DECIDES
from clat.network import modes
from clat.network.compiled import compile_seconds
from clat.network.cost import Cost, metered
from clat.network.random_states import preserve_random_states, seed_network
from clat.objectives import Loss
from clat.recipe.schema import Recipe, StageConfig
from clat.runtime.engine import Engine
from clat.runtime.patience import wait_for_all
from clat.training import records
from clat.training.flags import StepFlags
from clat.training.interrupt import StopFlag, stop_if_asked
from clat.training.log import RunLog
from clat.training.monitor import check_heldout, watch
from clat.training.optimizer import set_momentum
from clat.training.pace import RunPace
from clat.training.ranking import choose_layers
from clat.training.saving import STATE, RunFiles, diverged
from clat.training.stage import StageRunner
from clat.training.state import Checkpoint, Progress
from clat.training.step import NotFinite
from clat.training.warnings import warn, warnings_before_epoch


class Trainer:
    """Runs a recipe's stages on a model.

    Args:
        recipe: resolved for this machine.
        model: the network on its device.
        loader: the training batches.
        heldout: (x, y) on the device, the part of train that decides.
        engine: device, precision and processes.
        log: told what happens.
        out: the run's folder.
        stop: asked after each step.
        saved: the state to go on from, if any.
        name: what the network is called, if not by the recipe.
        frozen: names of parameters that stay as they came in.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        loader: Loader,
        heldout: tuple[Tensor, Tensor],
        engine: Engine,
        log: RunLog,
        out: Path,
        stop: StopFlag,
        saved: Checkpoint | None = None,
        name: str | None = None,
        frozen: Collection[str] = (),
    ) -> None:
        self.recipe, self.model, self.loader, self.heldout = recipe, model, loader, heldout
        self.engine, self.log, self.out, self.stop, self.frozen = engine, log, out, stop, frozen
        self.progress = Progress() if saved is None else saved.progress
        self.optimizer_state = {} if saved is None else saved.optimizer
        self.collapsed, self.pace = False, RunPace(recipe, loader.num_batches)
        self.files = RunFiles(out, recipe, model, engine, name)
        self.runner: StageRunner
        self._spent: Callable[[], Cost] = lambda: self.progress.cost
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: Checkpoint) -> None:
        """Go on from a state, with callbacks in the network first: they decide what its weights are called."""
        source = self.out / STATE
        if saved.progress.joined:
            self._enter_stage()
        saved.put_into(self.model, source)
        if saved.progress.joined:
            self.runner.callbacks.restore_scalars(saved.progress.callbacks)
            self.runner.callbacks.restore(saved.callbacks)

    def run(self) -> None:
        """Train from where `progress` stands to the end of the last stage.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            Diverged: the loss or a weight is not finite.
        """
        earlier, start = self.progress.cost, time.perf_counter()

        def spent() -> Cost:
            passes = torch.tensor([live.forwards, live.backwards], device=self.engine.device)
            forwards, backwards = self.engine.total(passes).tolist()
            seconds = time.perf_counter() - start
            return earlier + replace(live, forwards=forwards, backwards=backwards, seconds=seconds)

        if self.recipe.data.decide_on == "test-split":
            warn(self.log, self.progress, "test-split", TEST_DECIDES, once=True)
        kept = preserve_random_states(self.model)
        with kept, metered(self.model) as live, self.files.all_written():
            self._spent = spent
            while self.progress.stage < len(self.recipe.stages):
                with modes.restore_flags(self.model):
                    self._stage(self.recipe.stages[self.progress.stage])
                self._finish_stage()
                stop_if_asked(self.stop, self.engine, self.files.writer.wait)
        self.progress.cost = spent()

    def _stage(self, stage: StageConfig) -> None:
        progress, first = self.progress, self.recipe.first_epoch(self.progress.stage)
        if not progress.joined:
            self._enter_stage()
        if progress.epoch == first and progress.step == 0:
            self.log.say(f"stage {progress.stage + 1}/{len(self.recipe.stages)}: {stage.name}", style="bold")
            progress.best_robust_in_stage = progress.stage_seconds = 0.0
            if self.recipe.method_since(progress.stage) == progress.stage:
                progress.best = None  # the best weights of an earlier method are no result of this one
            if stage.selection is not None or not self.recipe.keeps_optimizer(progress.stage):
                self.optimizer_state = {}  # newly selected layers start without momentum
            for name in self.runner.callbacks.redrawn:
                self.optimizer_state.pop(name, None)
        if stage.selection is None or progress.selected is not None:
            self.runner.make_trainable(progress.selected, self.optimizer_state)
        while progress.epoch < first + stage.epochs:
            if progress.step == 0:
                self._before_epoch(stage, done=progress.epoch - first)
            self._epoch()
            self._close_epoch(stage, last=progress.epoch + 1 == first + stage.epochs)
            if self.collapsed:
                break

    def _enter_stage(self) -> None:
        here = self.model, self.engine, self.loader, self.heldout
        self.runner = StageRunner(self.recipe, self.progress.stage, *here, self.frozen)
        self.progress.joined = True

    def _before_epoch(self, stage: StageConfig, *, done: int) -> None:
        """Select if it is time, and let the callbacks know. `done`: epochs of the stage."""
        due = stage.selection is not None and stage.selection.due(done)
        if due:
            self._select(stage)
        if due or done == 0:
            for kind, message in warnings_before_epoch(self.progress, self.runner, self.heldout, first=done == 0):
                warn(self.log, self.progress, kind, message, once=True)
            self.runner.after_selection(self.progress.epoch, first=done == 0)
        if done == 0:
            self.log.record("stage", **records.stage_record(self.progress, self.runner))

    def _select(self, stage: StageConfig) -> None:
        """Decide which layers move from here on, on held-out images, and say so."""
        assert stage.selection is not None
        start = time.perf_counter()
        names = file = None
        if self.engine.computes_for_all:
            names, file = choose_layers(
                stage.selection,
                self.runner.candidates,
                model=self.model,
                heldout=self.heldout,
                recipe=self.recipe,
                epoch=self.progress.epoch + 1,
                out=self.out,
            )
        wait_for_all(self.engine.world)  # a ranking may take longer than a collective waits
        self.progress.selected = self.engine.from_first(names)
        self.runner.make_trainable(self.progress.selected, self.optimizer_state)
        rule, seconds = stage.selection.rule, time.perf_counter() - start
        record = records.selection_record(self.progress, rule, self.runner.trainable, file, seconds)
        self.log.record("selection", **record)
        self.log.say(records.selection_line(record), style="cyan")

    def _epoch(self) -> None:
        progress, seed, batches = self.progress, self.recipe.seed, self.loader.num_batches
        label = f"  epoch {progress.epoch + 1}/{self.recipe.total_epochs}"
        flags = StepFlags(self.stop, self.engine, self.recipe.engine.checkpoint_seconds)
        start, compiling = time.perf_counter(), compile_seconds()
        with self.log.bar(label, batches, progress.step, self.pace.within(progress.epoch)) as advance:
            for x, y in self.loader.epoch(progress.epoch, start_batch=progress.step):
                rate = self.runner.callbacks.learning_rate(self._learning_rate())
                set_momentum(self.runner.trainable.optimizer, self.recipe.momentum(progress.stage, self._done()))
                # What dropout and the like draw is decided by the place, like everything else.
                place = derive_seed(seed, "step", progress.epoch, progress.step, self.engine.draws_as)
                seed_network(self.model, place)
                loss = self._train_step(self.engine.images(x), y, rate, flags)
                for name, value in {"loss": loss.total, **loss.parts}.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + float(value)
                progress.step += 1
                # Compiling is told apart: it happens once, however long the run.
                compiled, compiling = compile_seconds() - compiling, compile_seconds()
                progress.compile_seconds += compiled
                spent = time.perf_counter() - start - compiled
                progress.epoch_seconds += spent
                progress.stage_seconds += spent
                advance(f"loss {float(loss.total):.3f}  {len(x) * self.engine.world / spent:.0f} images/s")
                flags.stop_if_asked(lambda: self.files.save(self._snapshot(), now=True))
                if flags.save_due() and progress.step < batches:
                    self.save()
                    flags.saved()
                start = time.perf_counter()

    def _train_step(self, x: Tensor, y: Tensor, rate: float, flags: StepFlags) -> Loss:
        progress, step = self.progress, self.runner.train_step
        try:
            return step(x, y, epoch=progress.epoch, number=progress.step, rate=rate, flags=flags)
        except NotFinite:
            self.files.writer.wait()
            raise diverged("the loss", self.recipe, progress, progress.step + 1, self.out) from None

    def _close_epoch(self, stage: StageConfig, *, last: bool) -> None:
        """Check on held-out images, keep the best, record, save."""
        self.files.require_finite(self.progress, self.runner.trainable)
        progress, steps = self.progress, self.loader.num_batches
        rate = self.runner.callbacks.learning_rate(self._learning_rate())
        progress.epoch += 1
        self.optimizer_state = self.runner.trainable.optimizer_state
        self.engine.average_statistics(self.model)
        images = steps * self.loader.batch_size
        progress.sums = self.engine.means(progress.sums)
        record = records.epoch_record(progress, self.recipe, self.runner, steps=steps, images=images, rate=rate)
        check = None
        if last or progress.epoch % self.recipe.monitor.every == 0:
            check, record["best"] = self._check_and_keep_best()
            record |= check
            if stage.objective.one_step:
                self._watch(check)
        self.runner.callbacks.after_epoch(check)
        record["companions"] = self.runner.callbacks.all_scalars()
        self.log.record("epoch", **record)
        self.log.say(records.epoch_line(record, self.recipe.total_epochs))
        if not self.engine.any_of(record["parts"].get("without_gradient", 0.0) < 1):
            warn(self.log, self.progress, "nothing-moves", records.nothing_moves(record["stage_name"]), once=True)
        progress.step, progress.sums, progress.epoch_seconds, progress.compile_seconds = 0, {}, 0.0, 0.0
        if not last and not self.collapsed:
            self.save()

    def _check_and_keep_best(self) -> tuple[dict[str, Any], bool]:
        """Return the check of the network as it stands, and whether it is the best so far, which is kept."""
        progress = self.progress
        with self.runner.callbacks.evaluation_weights():
            check = check_heldout(self.model, self.engine, self.heldout, self.recipe)
            better = progress.best is None or check["heldout_robust"] > progress.best["heldout_robust"]
            progress.last = {"epoch": progress.epoch, **check}
            if better:
                progress.best = progress.last
                self.files.keep_weights("best", progress, self.runner.callbacks)
        return check, better

    def _watch(self, check: dict[str, Any]) -> None:
        """Report catastrophic overfitting, and end the stage if asked to."""
        warning = watch(check, self.progress, stops=self.recipe.monitor.stop_on_collapse)
        if warning is not None:
            self.collapsed = self.recipe.monitor.stop_on_collapse
            warn(self.log, self.progress, "catastrophic-overfitting", warning)

    def _learning_rate(self) -> float:
        """Return the schedule's learning rate, callbacks aside."""
        return self.recipe.learning_rate(self.progress.stage, self._done())

    def _done(self) -> float:
        """Return the epochs since the run began."""
        return self.progress.epoch + self.progress.step / self.loader.num_batches

    def _finish_stage(self) -> None:
        progress, stage = self.progress, self.recipe.stages[self.progress.stage]
        moved = self.runner.trainable.count
        facts = self.runner.finish()
        kept = self.runner.trainable.parameters
        self.optimizer_state = {name: state for name, state in self.optimizer_state.items() if name in kept}
        if facts:
            check, better = self._check_and_keep_best()
            self.log.record("finish", stage=progress.stage, epoch=progress.epoch, **facts, **check, best=better)
            self.log.say(records.finish_line(facts), style="cyan")
        if self.collapsed:
            self._return_to_best()
        self.files.require_finite(self.progress, self.runner.trainable)
        first = self.recipe.first_epoch(progress.stage)
        epochs, progress.epoch = progress.epoch - first, first + stage.epochs
        images = epochs * self.loader.num_batches * self.loader.batch_size
        progress.stages.append(records.stage_summary(progress, stage.name, epochs, images, moved, self._spent()))
        progress.stage += 1
        progress.selected, progress.joined = None, False
        final = progress.stage == len(self.recipe.stages)
        self.files.keep_weights("last" if final else f"stage-{progress.stage}", progress, self.runner.callbacks)
        if not final:
            self.files.keep_for_reuse(self._snapshot())
        self.save()  # last, so that a run killed before it writes the other files again

    def _return_to_best(self) -> None:
        """Put the best weights so far into the network, with an optimizer that knows nothing of what came after."""
        self.collapsed = False
        self.files.load("best")
        self.engine.share(self.model)
        self.runner.trainable.optimizer.state.clear()
        self.optimizer_state = {}
        self.progress.last = self.progress.best

    def save(self) -> None:
        """Have the state saved while training goes on. All processes must call it.

        Raises:
            Diverged: a weight is not finite; nothing is saved.
        """
        self.files.save(self._snapshot())

    def _snapshot(self) -> Checkpoint:
        self.progress.metrics_bytes = self.log.size
        self.progress.cost = self._spent()
        return self.files.snapshot(self.progress, self.runner)
