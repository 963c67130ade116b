"""A whole run in its folder: set up, train, evaluate on the test split, summarise.

recipe.toml      the resolved recipe, with the precision that it ran in; `clat train recipe.toml` repeats the run
run.json         what ran where, and how it ended
metrics.jsonl    a record an event: stage, selection, epoch, warning
criticality/     the criticality report of each selection
weights/         best, last, the end of each earlier stage (stage-1, ...), a given start (stage-0)
states/          the state after each stage, for recipes that begin alike (`reuse`)
state.safetensors  where the run stands, for resuming
evaluations/     test-split results of the weights
summary.json     best against last, cost
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.attacks.draws import batch_parts
from clat.core.files import write_json
from clat.core.notices import notice
from clat.core.stopping import answered, last_words
from clat.evaluation import EvaluationRecord
from clat.evaluation.shown import results_html
from clat.network.guard import guarded
from clat.network.outputs import logits_only
from clat.recipe.schema import Recipe
from clat.recipe.toml import read_recipe
from clat.runtime.blocks import blocks_as
from clat.runtime.engine import Engine, is_first_process
from clat.runtime.peers import ending_together
from clat.runtime.sharding import shared_out
from clat.training.about import about_run, run_in_words
from clat.training.beginning import counted_frozen_statistics
from clat.training.final import final_evaluations
from clat.training.interrupt import Interrupted, stop_on_signals
from clat.training.lock import only_one_in
from clat.training.log import RunLog
from clat.training.prepare import Data, RunInputs, prepare, train_loader
from clat.training.resuming import (
    Given,
    check_given,
    check_state,
    describe_given,
    how_to_resume,
    other_configuration,
)
from clat.training.reuse import shared_stages
from clat.training.run_folder import claimed, no_run, recorder, refuse_taken
from clat.training.start import as_batch, starting_state
from clat.training.state import Progress
from clat.training.status import read_about
from clat.training.trackers import TrackedRun, check_trackers, wanted_loggers
from clat.training.trainer import Trainer


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    model: nn.Module
    """The network at the end, in evaluation mode."""
    summary: dict[str, Any]
    """Best, last and cost, as in summary.json."""
    evaluations: dict[str, dict[str, Any]]
    """Results on test images by label, as in the files."""
    out: Path
    """The run's folder."""

    def _repr_html_(self) -> str:
        records = [EvaluationRecord.from_dict(data, label) for label, data in self.evaluations.items()]
        return results_html(records, f"the run in {self.out}")


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    augment: Callable[[Tensor], Any] | None = None,
    reuse: str | Path | None = None,
    quiet: bool = False,
    beside: Mapping[str, Any] | None = None,
    loggers: Sequence[Any] = (),
) -> Result:
    """Run a recipe into a new folder.

    Args:
        recipe: a `Recipe`, a TOML file, or the name of a built-in one.
        out: the folder, which must be new or empty.
        model: a network of your own instead of the recipe's, images (N, C, H, W) in [0, 1] -> logits; it is trained
            in place.
        data: images of your own, (train, test) or one source of both: see `clat.data.as_train_and_test`. The
            held-out part is cut from train.
        augment: a callable of your own in place of the recipe's `data.augment`; it takes an image (C, H, W) and
            returns one, see `clat.data.PerImage`.
        reuse: the folder of another run: if it began with the same stages, data and seed, they are not run again.
        quiet: print nothing.
        beside: JSON files to write into the folder when it is made, by name.
        loggers: objects in the manner of Lightning Fabric, which get the numbers of each epoch beside those that
            `monitor.loggers` names.

    Returns:
        The network and its results.

    Raises:
        ClatError: anything wrong in the input, or `out` holds something already; then nothing has been written.
            Also a loss or weight that is no longer finite; the last good state stays.
    """
    recipe = (recipe if isinstance(recipe, Recipe) else read_recipe(recipe)).resolved()
    recipe.check_rates()
    out, reuse = Path(out), None if reuse is None else Path(reuse)
    engine = Engine(recipe.engine)
    # Whatever can be wrong is found before the folder is made and other processes are started.
    wanted_loggers(recipe.monitor.loggers)
    check_trackers(loggers)
    if is_first_process():
        refuse_taken(out, beside or {})
    inputs = prepare(recipe, model, data, augment, engine.layout.world)
    if reuse is not None:
        shared_stages(recipe, reuse, inputs, augment)
    given = describe_given(model, data, augment, inputs.train)
    with claimed(out, recipe, beside or {}, given) if is_first_process() else nullcontext():
        engine.launch()
        return _run(recipe, out, engine, inputs, given, reuse=reuse, quiet=quiet, loggers=loggers)


def resume(
    out: str | Path,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    augment: Callable[[Tensor], Any] | None = None,
    quiet: bool = False,
    loggers: Sequence[Any] = (),
    devices: int | None = None,
    shard: bool | None = None,
) -> Result:
    """Go on with a run that was stopped, from its last saved state.

    On one CPU configuration the weights end up bit-identical to those of a run that was never stopped.

    Args:
        out: the run's folder.
        model: as it was given to `train`; the saved weights replace its own.
        data: as it was given to `train`.
        augment: as it was given to `train`.
        quiet: print nothing.
        loggers: as for `train`; they get the epochs to come.
        devices: processes on this machine, where these are now others than the recipe says; it goes on, but not to
            the bits of the same number of processes.
        shard: share the network out among the processes, or no longer, where the recipe says otherwise.

    Returns:
        The network and its results.

    Raises:
        ClatError: there is no run, another process is training there, or the network, the images or the state do
            not fit.
    """
    out = Path(out)
    if not (out / "recipe.toml").is_file():
        raise no_run(out, "run to resume", "recipe.toml")
    given = describe_given(model, data, augment)
    with only_one_in(out) if is_first_process() else nullcontext():
        died = read_about(out).get("status") == "running"  # as nobody is training here
        check_given(out, given)
        recipe = read_recipe(out / "recipe.toml")
        if shard is not None:
            recipe = replace(recipe, engine=replace(recipe.engine, shard=shard))
        wanted_loggers(recipe.monitor.loggers)
        check_trackers(loggers)
        engine = Engine(recipe.engine if devices is None else replace(recipe.engine, devices=devices))
        inputs = prepare(recipe, model, data, augment, engine.layout.world)
        given = describe_given(model, data, augment, inputs.train)
        check_state(out, recipe, inputs, given, augment)
        if counted_frozen_statistics(out, inputs):
            notice(
                f"the run in {out} began with a version that went on counting the statistics of BatchNorm whose "
                "scale and shift are frozen: from here on they stay"
            )
        engine.launch()
        return _run(recipe, out, engine, inputs, given, reuse=None, quiet=quiet, died=died, loggers=loggers)


def _run(
    recipe: Recipe,
    out: Path,
    engine: Engine,
    inputs: RunInputs,
    given: Given,
    *,
    reuse: Path | None,
    quiet: bool,
    died: bool = False,
    loggers: Sequence[Any] = (),
) -> Result:
    engine.channels_last = inputs.channels_last
    model = inputs.model if engine.shards else engine.place(inputs.model)  # whole it may not fit the device
    device, rank, world = engine.device, engine.rank, engine.world
    loader = train_loader(recipe, inputs.train, device, rank, world, inputs.extra, inputs.augment)
    saved = starting_state(recipe, out, inputs, reuse, engine)
    log = RunLog(
        out / "metrics.jsonl" if engine.rank == 0 else None,
        keep_bytes=saved.progress.metrics_bytes if saved else 0,
        quiet=quiet,
        silent=engine.rank > 0,
    )
    if died:
        log.say(f"the run in {out} died without a word: going on from its last saved state", style="yellow")
    about = {**about_run(recipe, inputs, engine), "given": given}
    log.say(run_in_words(recipe, about))
    if (changed := other_configuration(out, about["environment"])) is not None:
        log.say(changed, style="yellow")
    finish = recorder(out, about) if engine.rank == 0 else lambda status: None
    epoch = saved.progress.epoch if saved else 0
    log.track(wanted_loggers(recipe.monitor.loggers), loggers, TrackedRun(out, recipe, about, epoch))
    if recipe.engine.shard and not engine.shards:
        log.say("engine.shard: the only process holds the whole network", style="yellow")
    if engine.precision == "bf16-mixed" and recipe.engine.emulates:
        log.say("this device emulates bfloat16, which takes many times as long as float32", style="yellow")

    def leave() -> str:
        """Return what is left to do where the process has to be ended from outside."""
        finish("interrupted")
        engine.dismiss(0.0)
        return f"go on with: {how_to_resume(out, given)}"

    trained = False
    try:
        together = ending_together(rank, world, how_to_resume(out, given))
        with stop_on_signals() as stop, last_words(leave), together:
            finish("running")
            with shared_out(model, engine) as part:
                parts = batch_parts(loader.batch_size // engine.world, recipe.micro_batch)
                sizes = {rows.stop - rows.start for rows in parts}
                blocks = blocks_as(recipe.engine, part, *sizes)
                with logits_only(part), guarded(part), blocks:
                    heldout, name = as_batch(inputs.heldout, engine), inputs.model_name(recipe)
                    frozen = inputs.frozen
                    trainer = Trainer(recipe, part, loader, heldout, engine, log, out, stop, saved, name, frozen)
                    trainer.run()
            summary = _summary(trainer.progress, recipe)
            if engine.rank == 0:
                write_json(out / "summary.json", summary)
            trained = True
            with stop.at_once():
                evaluations = final_evaluations(recipe, out, model, inputs.test, engine, log, name)
    except (Interrupted, KeyboardInterrupt) as stopped:
        answered()
        finish("interrupted")
        log.say(f"stopped; go on with: {how_to_resume(out, given)}", style="yellow")
        forced = isinstance(stopped, KeyboardInterrupt) or stopped.forced  # asked twice, as a step took too long
        if trained or forced:  # otherwise all processes have agreed on it
            engine.dismiss(0.2 if forced else 5.0)
        raise
    except BaseException:
        finish("failed")
        raise
    finally:
        log.close("success" if trained else "failed")
    finish("finished")
    return Result(model.eval(), summary, evaluations, out)


def _summary(progress: Progress, recipe: Recipe) -> dict[str, Any]:
    assert progress.best is not None
    assert progress.last is not None
    since = recipe.method_since(len(recipe.stages) - 1)
    return {
        "best": progress.best,
        "best_over": [stage.name for stage in recipe.stages[since:]],
        "last": progress.last,
        "robust_overfitting": progress.best["heldout_robust"] - progress.last["heldout_robust"],
        "cost": asdict(progress.cost),
        "stages": progress.stages,
        "warnings": progress.warnings,
    }
