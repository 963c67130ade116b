"""Whether a run can go on, and how: found out before a resume writes anything."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.evaluation.result import EvaluationRecord
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.training.beginning import class_of, other_beginning
from clat.training.final import evaluated_weights
from clat.training.prepare import RunInputs
from clat.training.saving import STATE
from clat.training.state import Checkpoint, Progress, load_state
from clat.training.status import read_about

Given = dict[str, str | None]
"""What a run was given from Python instead of what its recipe names: "model" (its class), "data" (its name),
"augment" (its class)."""
_KINDS = ("model", "data", "augment")
HARDENING = "harden.json"
"""What the folder of a hardening holds, which a run is a part of."""


def describe_given(model: object, data: object, augment: object, train_set: ImageSet | None = None) -> Given:
    """Return what run.json says of a network, of images and of an augmentation that came from Python.

    Args:
        model: the network, or None.
        data: the images, in whatever form, or None.
        augment: the callable, or None.
        train_set: what `data` was read to, where it was read already.

    Returns:
        For each, its class or name; None where it did not come from Python.
    """
    return {
        "model": class_of(model),
        "data": class_of(data) if data is None or train_set is None else train_set.name,
        "augment": class_of(augment),
    }


def how_to_resume(out: Path, given: Given) -> str:
    """Return the command, or the Python call, that goes on with the run in a folder.

    Args:
        out: the run's folder.
        given: what the run was given from Python.

    Returns:
        A line to type.
    """
    if (out / HARDENING).exists():  # whose promise, test and card come after the training
        return f"clat harden --resume {shlex.quote(str(out))} (from Python: clat.hardening.resume_hardening)"
    again = [f"{name}=..." for name in _KINDS if given.get(name) is not None]
    if not again:
        return f"clat train --resume {shlex.quote(str(out))}"
    return f"clat.resume({str(out)!r}, {', '.join(again)})"


def check_given(out: Path, given: Given) -> None:
    """Raise an error if a run began with a network or images from Python that are not given again.

    Args:
        out: the run's folder.
        given: what is given now.

    Raises:
        ClatError: something is missing; it says how to go on.
    """
    recorded = read_about(out).get("given")
    if not isinstance(recorded, dict):  # a run from before this was recorded
        return
    missing = [name for name in _KINDS if recorded.get(name) is not None and given[name] is None]
    if missing:
        held = " and ".join(f"{name} ({recorded[name]})" for name in missing)
        raise ClatError(
            f"the run in {out} was given its {held} from Python: go on there, with {how_to_resume(out, recorded)}"
        )


def other_configuration(out: Path, environment: dict[str, Any]) -> str | None:
    """Return what to say of a run that goes on elsewhere than it began.

    Bits depend on torch, on the kind of device, on the numbers of threads and processes, and on what each holds.

    Args:
        out: the run's folder.
        environment: of this process, as `describe_environment` gives it, with the number of processes.

    Returns:
        A sentence; None where nothing differs that bits depend on.
    """
    recorded = read_about(out).get("environment")
    before = {"sharded": False, **(recorded if isinstance(recorded, dict) else {})}
    environment = {"sharded": False, **environment}
    names = [
        name
        for name in ("torch", "device", "threads", "processes", "sharded")
        if before.get(name, environment[name]) != environment[name]
    ]
    if not names:
        return None
    changes = ", ".join(f"{name} {before[name]} (now {environment[name]})" for name in names)
    return f"the run began with {changes}: it goes on, but not to the bits of one that was not stopped"


def check_state(
    out: Path, recipe: Recipe, inputs: RunInputs, given: Given, augment: Callable[[Tensor], Any] | None = None
) -> None:
    """Raise an error unless the saved state of a run, where there is one, can be gone on with.

    Args:
        out: the run's folder.
        recipe: the run's.
        inputs: the network that the state has to fit.
        given: what was given from Python, for the message.
        augment: the callable that was, in place of the recipe's augmentation.

    Raises:
        ClatError: the state is damaged, belongs to another recipe, or holds the weights of another network; or the
            run began with another network, other images or another augmentation.
    """
    if (out / STATE).exists():
        _check_saved(out, recipe, inputs, given)
    if (other := other_beginning(out, inputs, augment)) is not None:
        raise ClatError(f"the run in {out} began with {other}: give it the same")


def _check_saved(out: Path, recipe: Recipe, inputs: RunInputs, given: Given) -> None:
    """Raise ClatError if the saved state is damaged, or does not fit the recipe or the network."""
    saved = load_state(out / STATE, recipe_hash(recipe))
    _check_finished(out, recipe, saved.progress)
    misfits = _misfits(saved, recipe, inputs.model.state_dict())
    if misfits:
        hint = f"; for a network from Python go on there, with {how_to_resume(out, {'model': ''})}"
        raise ClatError(
            f"{out / STATE} does not fit the model {type(inputs.model).__name__}, in {len(misfits)} weights, "
            f"such as {misfits[0]}{'' if given['model'] else hint}"
        )


def _check_finished(out: Path, recipe: Recipe, progress: Progress) -> None:
    """Raise ClatError if weights that the run has written, and will evaluate at its end, are damaged or gone, or a
    result that it has written: both would be found out after hours of training."""
    written = {f"stage-{number}" for number in range(progress.stage + 1)}
    written |= {"best"} if progress.best else set()
    written |= {"last"} if progress.stage == len(recipe.stages) else set()
    for label in evaluated_weights(recipe, out):
        file = out / "weights" / f"{label}.safetensors"
        try:
            if label in written:
                with safe_open(file, framework="pt"):
                    pass
        except (OSError, SafetensorError):
            raise ClatError(f"{file} is damaged or gone, and the run needs it: begin a new one") from None
        result = out / "evaluations" / f"{label}.json"
        if result.exists():
            EvaluationRecord.from_json(result)


def _misfits(saved: Checkpoint, recipe: Recipe, weights: dict[str, Any]) -> list[str]:
    """Return the names of weights that only one side has, or that differ in shape."""
    shapes = [
        {name: tuple(value.shape) for name, value in side.items() if hasattr(value, "shape")}
        for side in (weights, saved.weights)
    ]
    names = [*shapes[0], *(name for name in shapes[1] if name not in shapes[0])]
    if saved.progress.joined:
        stage = recipe.stages[saved.progress.stage]
        if any(one.reparametrises for one in (stage.objective, *stage.treatments)):
            # Saved in the midst of such a stage, the network has other names: those that it kept have to fit.
            names = [name for name in shapes[0] if name in shapes[1]]
    return [name for name in names if shapes[0].get(name) != shapes[1].get(name)]
