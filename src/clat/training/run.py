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

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import clear_temporaries, is_temporary, write_json, write_text
from clat.core.stopping import answered, last_words
from clat.data import ImageSet
from clat.data.loader import Loader
from clat.models import load_weights, save_weights
from clat.network.guard import guarded
from clat.network.outputs import logits_only
from clat.recipe.schema import Recipe
from clat.recipe.toml import read_recipe, recipe_hash, recipe_toml
from clat.runtime.blocks import blocks_as
from clat.runtime.engine import Engine, is_first_process
from clat.training.about import about_run, now
from clat.training.final import final_evaluations
from clat.training.interrupt import Interrupted, stop_on_signals
from clat.training.lock import LOCK, only_one_in
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
from clat.training.reuse import copy_beginning, other_data, shared_stages
from clat.training.saving import STATE
from clat.training.state import Checkpoint, Progress, load_state
from clat.training.status import read_about
from clat.training.trainer import Trainer


@dataclass(frozen=True)
class Result:
    """`model`: the network at the end, in evaluation mode; `summary`: best, last, cost; `evaluations`: by
    label, as in the files; `out`: the run's folder."""

    model: nn.Module
    summary: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    out: Path


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    reuse: str | Path | None = None,
    quiet: bool = False,
    beside: Mapping[str, Any] | None = None,
) -> Result:
    """Run a recipe into the new folder `out`.

    `recipe`: a `Recipe`, a TOML file, or the name of a built-in one; `model`: a network of your own instead of the
    recipe's, taking images in [0, 1] (it is trained in place); `data`: image sets of your own; `reuse`: the folder
    of another run: if it began with the same stages, data and seed, they are not run again; `beside`: JSON files to
    write into the folder when it is made, by name. Raises ClatError for anything wrong in the input, and if `out`
    holds something already.
    """
    recipe = (recipe if isinstance(recipe, Recipe) else read_recipe(recipe)).resolved()
    out, reuse = Path(out), None if reuse is None else Path(reuse)
    engine = Engine(recipe.engine)
    # Whatever can be wrong is found before the folder is made and other processes are started.
    if is_first_process():
        refuse_taken(out, beside or {})
    inputs = prepare(recipe, model, data)
    if reuse is not None:
        shared_stages(recipe, reuse, inputs)
    with _claimed(out, recipe, beside or {}) if is_first_process() else nullcontext():
        engine.launch()
        given = describe_given(model, data)
        return _run(recipe, out, engine, inputs, given, reuse=reuse, quiet=quiet)


def resume(
    out: str | Path, *, model: nn.Module | None = None, data: Data | None = None, quiet: bool = False
) -> Result:
    """Go on with a run that was stopped, from its last saved state; `model` and `data` as for `train`.

    On one CPU configuration the weights end up bit-identical to those of a run that was never stopped.
    """
    out = Path(out)
    if not (out / "recipe.toml").is_file():
        raise ClatError(f"{out} holds no run to resume: there is no recipe.toml in it")
    given = describe_given(model, data)
    with only_one_in(out) if is_first_process() else nullcontext():
        died = read_about(out).get("status") == "running"  # as nobody is training here
        check_given(out, given)
        recipe = read_recipe(out / "recipe.toml")
        engine = Engine(recipe.engine)
        inputs = prepare(recipe, model, data)
        if other_data(out, inputs):
            raise ClatError(f"the images differ from those that the run in {out} began with: give it the same")
        check_state(out, recipe, inputs, given)
        engine.launch()
        return _run(recipe, out, engine, inputs, given, reuse=None, quiet=quiet, died=died)


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
) -> Result:
    model = engine.place(inputs.model)
    loader = train_loader(recipe, inputs.train, engine.device, engine.rank, engine.world, inputs.extra)
    saved = _start(recipe, out, inputs, reuse, engine)
    log = RunLog(
        out / "metrics.jsonl" if engine.rank == 0 else None,
        keep_bytes=saved.progress.metrics_bytes if saved else 0,
        epoch=saved.progress.epoch if saved else 0,
        quiet=quiet or engine.rank > 0,
    )
    if died:
        log.say(f"the run in {out} died without a word: going on from its last saved state", style="yellow")
    about = {**about_run(recipe, inputs, engine), "given": given}
    if (changed := other_configuration(out, about["environment"])) is not None:
        log.say(changed, style="yellow")
    finish = _recorder(out, about) if engine.rank == 0 else lambda status: None
    if engine.precision == "bf16-mixed" and recipe.engine.emulates:
        log.say("this device emulates bfloat16, which takes many times as long as float32", style="yellow")

    def leave() -> str:
        """What is left to do where the process has to be ended from outside."""
        finish("interrupted")
        engine.dismiss(0.0)
        return f"go on with: {how_to_resume(out, given)}"

    trained = False
    try:
        with stop_on_signals() as stop, last_words(leave):
            finish("running")
            blocks = blocks_as(recipe.engine, model, recipe.batch_size // engine.world)
            with logits_only(model), guarded(model), blocks:
                heldout = _tensors(inputs.heldout, engine)
                trainer = Trainer(
                    recipe, model, loader, heldout, engine, log, out, stop, saved, inputs.model_name(recipe)
                )
                trainer.run()
            summary = _summary(trainer.progress)
            if engine.rank == 0:
                write_json(out / "summary.json", summary)
            trained = True
            with stop.at_once():
                evaluations = final_evaluations(
                    recipe, out, model, inputs.test, engine, log, inputs.model_name(recipe)
                )
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
        log.close()
    finish("finished")
    return Result(model.eval(), summary, evaluations, out)


FOLDERS = ("weights", "criticality", "evaluations", "states")


def refuse_taken(out: Path, beside: Collection[str] = ()) -> None:
    """Raise ClatError if the folder `out` holds anything that a run would overwrite. What a run leaves that was
    killed before it had written its recipe, the files `beside` it and empty folders, is nothing."""

    def is_nothing(held: Path) -> bool:
        if held.name in FOLDERS:
            return held.is_dir() and not any(held.iterdir())
        return held.name == LOCK or is_temporary(held) or held.name in beside

    begun = (out / "recipe.toml").exists()
    if out.exists() and (not out.is_dir() or begun or not all(map(is_nothing, out.iterdir()))):
        what = "another run" if begun else "something"
        raise ClatError(f"{out} holds {what} already: name a new folder, or go on with --resume {out}")


@contextmanager
def _claimed(out: Path, recipe: Recipe, beside: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the run's folder is there, with its recipe, and nobody else's; one that holds anything is refused."""
    _make(out)
    with only_one_in(out):
        refuse_taken(out, beside)
        for folder in FOLDERS:
            _make(out / folder)
        for name, record in beside.items():
            write_json(out / name, record)
        write_text(out / "recipe.toml", recipe_toml(recipe))
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClatError(f"cannot write to {folder}: {error.strerror or error}") from None


def _tensors(images: ImageSet, engine: Engine) -> tuple[Tensor, Tensor]:
    """The whole set as one batch on the device."""
    return next(iter(Loader(images, len(images), device=engine.device).epoch()))


def _start(recipe: Recipe, out: Path, inputs: RunInputs, reuse: Path | None, engine: Engine) -> Checkpoint | None:
    """Fresh (None), from the run's own state, or from the longest common beginning with the run in `reuse`."""
    model = inputs.model
    state, first = out / STATE, out / "weights" / "stage-0.safetensors"
    if engine.rank == 0:
        for folder in FOLDERS:
            clear_temporaries(out / folder)
        clear_temporaries(out)
        if reuse is not None:
            copy_beginning(recipe, out, inputs, reuse)
        elif not state.exists() and first.exists():
            load_weights(model, first)  # killed before its first state
        elif inputs.given and not first.exists():
            save_weights(model, first)
    engine.share(model)
    engine.wait()
    return load_state(state, recipe_hash(recipe), engine.rank) if state.exists() else None


def _recorder(out: Path, about: dict[str, Any]) -> Callable[[str], None]:
    """Writes run.json with the given status; a resumed run keeps when it first started."""
    file = out / "run.json"
    if file.exists():
        about["started"] = read_about(out).get("started", about["started"])

    def record(status: str) -> None:
        finished = None if status == "running" else now()
        write_json(file, {**about, "status": status, "finished": finished})

    return record


def _summary(progress: Progress) -> dict[str, Any]:
    assert progress.best is not None
    assert progress.last is not None
    return {
        "best": progress.best,
        "last": progress.last,
        "robust_overfitting": progress.best["heldout_robust"] - progress.last["heldout_robust"],
        "cost": asdict(progress.cost),
        "stages": progress.stages,
        "warnings": progress.warnings,
    }
