"""The training loop: stages, selections, epochs, steps, and the checks and checkpoints between them.

Everything random is derived from the seed and the place in the run, so a state (`clat.training.state`) plus the
recipe is the whole truth about where a run stands: a killed and resumed run does the same arithmetic.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.seeds import derive_seed
from clat.data.loader import Loader
from clat.models.files import load_weights
from clat.network import modes
from clat.network.compiled import compile_seconds
from clat.network.cost import Cost, metered
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.guard import guarded
from clat.network.layers import Layer, find_layers
from clat.objectives import Loss, Step
from clat.recipe.schema import Recipe, StageConfig
from clat.recipe.toml import recipe_hash
from clat.runtime.callback import Company
from clat.runtime.engine import Engine
from clat.training.interrupt import Interrupted, StopFlag
from clat.training.log import RunLog
from clat.training.monitor import check_heldout, watch
from clat.training.ranking import choose_layers
from clat.training.records import (
    TEST_DECIDES,
    epoch_line,
    epoch_record,
    finish_line,
    selection_line,
    selection_record,
    stage_record,
    stage_summary,
)
from clat.training.saving import STATE, all_finite, diverged, keep_for_reuse, keep_weights, standing
from clat.training.stage import Moving, join_company, set_moving
from clat.training.state import Progress, Saved, save_state
from clat.training.step import NotFinite, train_step


class Trainer:
    """Runs a recipe's stages on a model. `heldout`: (x, y) on the device, the part of train that decides;
    `out`: the run's folder; `saved`: the state to go on from, if any."""

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
        saved: Saved | None = None,
    ) -> None:
        self.recipe, self.model, self.loader, self.heldout = recipe, model, loader, heldout
        self.engine, self.log, self.out, self.stop = engine, log, out, stop
        self.progress = Progress() if saved is None else saved.progress
        self.momentum = {} if saved is None else saved.momentum
        self.company = Company()
        self.collapsed = False
        self.hash = recipe_hash(recipe)
        self.moving: Moving
        self._spent: Callable[[], Cost] = lambda: self.progress.cost
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: Saved) -> None:
        """Companions that were in the network join it first: the weights are named by its structure."""
        source = self.out / STATE
        if saved.progress.joined:
            self._join()
            saved.put_into(self.model, source)
            self.company.restore_figures(saved.progress.companions)
            self.company.restore(saved.companions)
        else:
            saved.put_into(self.model, source)

    def run(self) -> None:
        """Train from where `progress` stands to the end of the last stage."""
        earlier, start = self.progress.cost, time.perf_counter()
        devices = [self.engine.device] if self.engine.device.type == "cuda" else []
        if self.recipe.data.decide_on == "test-split" and TEST_DECIDES not in self.progress.warnings:
            self._warn("test-split", TEST_DECIDES)
        with torch.random.fork_rng(devices=devices), metered(self.model) as live, guarded(self.model):
            self._spent = lambda: earlier + replace(live, seconds=time.perf_counter() - start)
            while self.progress.stage < len(self.recipe.stages):
                with modes.remembered(self.model):
                    self._stage(self.recipe.stages[self.progress.stage])
                self._finish_stage()
                self._heed_stop()
        self.progress.cost = earlier + live

    def _stage(self, stage: StageConfig) -> None:
        first = self.recipe.first_epoch(self.progress.stage)
        if not self.progress.joined:
            self._join()
        candidates = self._candidates(stage)
        if self.progress.epoch == first and self.progress.step == 0:
            self.log.say(f"stage {self.progress.stage + 1}/{len(self.recipe.stages)}: {stage.name}", style="bold")
            self.progress.best_robust_in_stage = self.progress.stage_seconds = 0.0
            if stage.selection is not None:
                self.momentum = {}  # newly selected layers start without momentum
        self._adopt(stage, candidates)
        while self.progress.epoch < first + stage.epochs:
            done = self.progress.epoch - first
            if self.progress.step == 0 and stage.selection is not None and stage.selection.due(done):
                self._select(stage, candidates)
            if not self.progress.stage_begun:
                self._begin(stage, first)
            self._epoch(stage)
            self._close_epoch(stage, last=self.progress.epoch + 1 == first + stage.epochs)
            if self.collapsed:
                break

    def _join(self) -> None:
        self.company = join_company(
            self.model, self.recipe, self.progress.stage, self.engine, self.loader, self.heldout
        )
        self.progress.joined = True

    def _candidates(self, stage: StageConfig) -> list[Layer]:
        if stage.selection is None:
            return []
        return stage.selection.candidates(self.model, self.heldout[0][:1])

    def _select(self, stage: StageConfig, candidates: Sequence[Layer]) -> None:
        """Decide which layers move from here on, on held-out images, and say so."""
        assert stage.selection is not None
        start = time.perf_counter()
        names, file = None, None
        if self.engine.rank == 0:
            names, file = choose_layers(
                stage.selection,
                candidates,
                model=self.model,
                heldout=self.heldout,
                recipe=self.recipe,
                epoch=self.progress.epoch + 1,
                out=self.out,
            )
        self.progress.selected = self.engine.from_first(names)
        self._adopt(stage, candidates)
        seconds = time.perf_counter() - start
        record = selection_record(self.progress, stage.selection.rule, self.moving, file, seconds)
        self.log.record("selection", **record)
        self.log.say(selection_line(record), style="cyan")
        if getattr(stage.objective, "calibrate", "stage") == "selection":
            self.progress.stage_begun = False

    def _adopt(self, stage: StageConfig, candidates: Sequence[Layer]) -> None:
        """Make the selection in `progress` what moves: flags, BatchNorm modes, optimizer."""
        if stage.selection is not None and self.progress.selected is None:
            return
        layers = find_layers(candidates, self.progress.selected or ())
        self.moving = set_moving(self.model, self.recipe, stage, layers, self.company, self.progress, self.momentum)

    def _begin(self, stage: StageConfig, first: int) -> None:
        """The objective's own start (CLAT sets lambda), on held-out images."""
        x, y = (part[: self.recipe.batch_size] for part in self.heldout)
        seed = derive_seed(self.recipe.seed, "begin", self.progress.epoch)
        torch.manual_seed(seed)  # for dropout, as in a training step
        state: dict[str, float] | None = None
        if self.engine.rank == 0:
            with self.engine.autocast(), frozen_norms_lean(self.model):
                state = stage.objective.begin(self.model, self.engine.images(x), y, self._seeded(seed))
        self.progress.objective_state = self.engine.from_first(state)
        self.moving.step = replace(self.moving.step, state=self.progress.objective_state)
        self.progress.stage_begun = True
        if self.progress.epoch == first:
            self.log.record("stage", **stage_record(self.progress, stage, self.moving, self.model))

    def _seeded(self, seed: int) -> Step:
        return replace(self.moving.step, seed=seed)

    def _epoch(self, stage: StageConfig) -> None:
        progress, seed = self.progress, self.recipe.seed
        batches = self.loader.num_batches
        label = f"  epoch {progress.epoch + 1}/{self.recipe.total_epochs}"
        saved = start = time.perf_counter()
        compiling = compile_seconds()
        with self.log.bar(label, batches, progress.step) as advance:
            for x, y in self.loader.epoch(progress.epoch, start_batch=progress.step):
                rate = self.company.learning_rate(self._learning_rate())
                # Dropout and the like draw from the global stream: seeded by place, like everything else.
                torch.manual_seed(derive_seed(seed, "step", progress.epoch, progress.step, self.engine.rank))
                loss = self._train_step(stage, self.engine.images(x), y, rate)
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
                self._heed_stop(self.save)
                start = time.perf_counter()
                overdue = start - saved > self.recipe.engine.checkpoint_seconds
                if self.engine.any_of(overdue) and progress.step < batches:
                    self.save()
                    saved = start = time.perf_counter()

    def _heed_stop(self, before: Callable[[], None] = lambda: None) -> None:
        """Stop if any process was asked to."""
        if self.engine.any_of(bool(self.stop.number)):
            before()
            self.engine.wait()  # for the first, which saves: its launcher kills it once another has failed
            raise Interrupted(self.stop.number or signal.SIGINT)

    def _train_step(self, stage: StageConfig, x: Tensor, y: Tensor, rate: float) -> Loss:
        """A batch: as many training steps on it as the objective asks for, each with a seed of its own."""
        progress, replays = self.progress, stage.objective.replays
        for number in range(progress.step * replays, (progress.step + 1) * replays):
            seed = derive_seed(self.recipe.seed, "attack", progress.epoch, number, self.engine.rank)
            try:
                loss = train_step(
                    stage.objective,
                    self.model,
                    x,
                    y,
                    self._seeded(seed),
                    moving=self.moving,
                    company=self.company,
                    engine=self.engine,
                    rate=rate,
                )
            except NotFinite:
                raise diverged("the loss", self.recipe, progress, progress.step + 1, self.out) from None
        return loss

    def _close_epoch(self, stage: StageConfig, *, last: bool) -> None:
        """Check on held-out images, keep the best, record, save."""
        self._require_finite()
        progress = self.progress
        steps = self.loader.num_batches
        rate = self.company.learning_rate(self._learning_rate())
        progress.epoch += 1
        self.momentum = self.moving.momentum
        self.engine.average_statistics(self.model)
        images = steps * self.loader.batch_size
        record = epoch_record(progress, self.recipe, self.moving, steps=steps, images=images, rate=rate)
        check = None
        if last or progress.epoch % self.recipe.monitor.every == 0:
            check, better = self._judge()
            record |= {**check, "best": better}
            if stage.objective.one_step:
                self._watch(check)
        self.company.after_epoch(check)
        record["companions"] = self.company.figures()
        self.log.record("epoch", **record)
        self.log.say(epoch_line(record, self.recipe.total_epochs))
        progress.step, progress.sums, progress.epoch_seconds = 0, {}, 0.0
        progress.compile_seconds = 0.0
        if not last and not self.collapsed:
            self.save()

    def _judge(self) -> tuple[dict[str, Any], bool]:
        """Check the network as it stands; whether it is the best so far, in which case it is kept."""
        progress = self.progress
        with self.company.as_evaluated():
            check = check_heldout(self.model, self.engine, self.heldout, self.recipe)
            better = progress.best is None or check["heldout_robust"] > progress.best["heldout_robust"]
            progress.last = {"epoch": progress.epoch, **check}
            if better:
                progress.best = progress.last
                self._save_weights("best")
        return check, better

    def _watch(self, check: dict[str, Any]) -> None:
        """Report catastrophic overfitting, and end the stage if asked to."""
        stops = self.recipe.monitor.stop_on_collapse
        warning = watch(check, self.progress, stops=stops)
        if warning is not None:
            self.collapsed = stops
            self._warn("catastrophic-overfitting", warning)

    def _learning_rate(self) -> float:
        """The schedule's, companions aside."""
        progress = self.progress
        return self.recipe.learning_rate(progress.stage, progress.epoch + progress.step / self.loader.num_batches)

    def _warn(self, kind: str, message: str) -> None:
        """Say it, and keep it with the results."""
        self.progress.warnings.append(message)
        self.log.record("warning", epoch=self.progress.epoch, kind=kind, message=message)
        self.log.say(f"  warning: {message}", style="yellow")

    def _finish_stage(self) -> None:
        progress, stage = self.progress, self.recipe.stages[self.progress.stage]
        moved = self.moving.count
        facts = self.company.finish()
        self.company = Company()
        self.moving.forget_guests(self.model)
        self.momentum = {name: buffer for name, buffer in self.momentum.items() if name in self.moving.parameters}
        if facts:
            check, better = self._judge()
            self.log.record("finish", stage=progress.stage, epoch=progress.epoch, **facts, **check, best=better)
            self.log.say(finish_line(facts), style="cyan")
        if self.collapsed:
            self._return_to_best()
        self._require_finite()
        first = self.recipe.first_epoch(progress.stage)
        epochs, progress.epoch = progress.epoch - first, first + stage.epochs
        images = epochs * self.loader.num_batches * self.loader.batch_size
        progress.stages.append(stage_summary(progress, stage.name, epochs, images, moved, self._spent()))
        progress.stage += 1
        progress.selected, progress.stage_begun, progress.objective_state = None, False, {}
        progress.joined = False
        final = progress.stage == len(self.recipe.stages)
        self._save_weights("last" if final else f"stage-{progress.stage}")
        if not final:
            saved = self._standing()
            if self.engine.rank == 0:
                keep_for_reuse(self.out, self.recipe, saved)
        self.save()  # last, so that a run killed before it writes the other files again

    def _return_to_best(self) -> None:
        """The network with the best weights so far, and an optimizer without a memory of what came after."""
        self.collapsed = False
        if self.engine.rank == 0:
            load_weights(self.model, self.out / "weights" / "best.safetensors")
        self.engine.share(self.model)
        self.moving.optimizer.state.clear()
        self.momentum = {}
        self.progress.last = self.progress.best

    def _save_weights(self, name: str) -> None:
        if self.engine.rank == 0:
            keep_weights(self.out, name, self.model, self.company, self.recipe, self.progress)

    def _require_finite(self) -> None:
        """Stop before a weight or a statistic that has become useless is saved anywhere. All processes must call
        it."""
        if self.engine.any_of(not all_finite(self.model, self.moving)):
            raise diverged("a weight", self.recipe, self.progress, self.progress.step, self.out)

    def save(self) -> None:
        """Save the state, unless a weight has become useless. All processes must call it."""
        saved = self._standing()
        if self.engine.rank == 0:
            save_state(self.out / STATE, saved, self.hash)

    def _standing(self) -> Saved:
        """Where the run stands, with finite weights. All processes must call it."""
        self._require_finite()
        self.progress.metrics_bytes = self.log.size
        self.progress.cost = self._spent()
        self.progress.companions = self.company.figures()
        return standing(self.progress, self.model, self.moving, self.company, self.engine)
