"""Taking over the stages that another run has already trained, if it began exactly alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from clat.core.errors import ClatError
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.training.beginning import FIRST, holds, other_beginning
from clat.training.prepare import RunInputs
from clat.training.run_folder import no_run
from clat.training.saving import STATE
from clat.training.state import load_state, save_state, state_hash


def shared_stages(
    recipe: Recipe, reuse: Path, inputs: RunInputs, augment: Callable[[Tensor], Any] | None = None
) -> int:
    """Return how many finished stages of another run this recipe begins with.

    Args:
        recipe: of the run that begins.
        reuse: the other run's folder.
        inputs: the network and the images of the run that begins.
        augment: the callable that it was given from Python in place of the recipe's augmentation.

    Returns:
        At least 1, and fewer than the recipe's stages.

    Raises:
        ClatError: there is no run, or it shares no stage: network, images, augmentation, seed or settings differ.
    """
    if not (reuse / "recipe.toml").is_file():
        raise no_run(reuse, "run to reuse", "recipe.toml")
    if (other := other_beginning(reuse, inputs, augment)) is not None:
        raise ClatError(f"the run in {reuse} began with {other}: it has nothing to reuse")
    if inputs.given != (first := reuse / "weights" / FIRST).is_file() or (
        inputs.given and not holds(first, inputs.model)
    ):
        raise ClatError(f"the run in {reuse} started from other weights: it has nothing to reuse")
    return _finished_alike(recipe, reuse)


def _finished_alike(recipe: Recipe, reuse: Path) -> int:
    for number in range(len(recipe.stages) - 1, 0, -1):
        if state_hash(reuse / "states" / f"stage-{number}.safetensors") == recipe_hash(recipe, number):
            return number
    raise ClatError(f"{reuse} shares no finished stage with this recipe: model, data, seed or settings differ")


def copy_beginning(recipe: Recipe, out: Path, reuse: Path) -> None:
    """Take over what another run did, up to the end of the last stage that both have.

    Args:
        recipe: of the run that begins.
        out: its folder, which is filled with the weights, rankings, metrics and state of these stages.
        reuse: the other run's folder, of which `shared_stages` has found that it began alike.

    Raises:
        ClatError: the other run shares no finished stage.
    """
    number = _finished_alike(recipe, reuse)
    file = reuse / "states" / f"stage-{number}.safetensors"
    saved = load_state(file, recipe_hash(recipe, number))
    progress = saved.progress
    with (reuse / "metrics.jsonl").open("rb") as metrics:
        (out / "metrics.jsonl").write_bytes(metrics.read(progress.metrics_bytes))
    for weights in (reuse / "weights").glob("stage-*.safetensors"):
        if int(weights.stem.removeprefix("stage-")) <= number:
            shutil.copy(weights, out / "weights")
    for done in range(1, number + 1):
        for kept in (reuse / "states").glob(f"stage-{done}.*"):
            shutil.copy(kept, out / "states")
    shutil.copy(reuse / "states" / f"stage-{number}.best.safetensors", out / "weights" / "best.safetensors")
    for report in (reuse / "criticality").glob("epoch-*.json"):
        if int(report.stem.removeprefix("epoch-")) <= progress.epoch:
            shutil.copy(report, out / "criticality")
    save_state(out / STATE, saved, recipe_hash(recipe))
