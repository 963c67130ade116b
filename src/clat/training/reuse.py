"""Taking over the stages that another run has already trained, if it began exactly alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from clat.core.errors import ClatError
from clat.models.files import read_state, recorded_statistics
from clat.models.fitting import bare
from clat.models.normalize import same_statistics, statistics_of
from clat.models.reading import read_metadata
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.training.prepare import RunInputs
from clat.training.saving import STATE
from clat.training.state import load_state, save_state, state_hash

FIRST = "stage-0.safetensors"
"""The weights that a network from Python began with, in a run's `weights`."""


def shared_stages(recipe: Recipe, reuse: Path, inputs: RunInputs) -> int:
    """Return how many finished stages of another run this recipe begins with.

    Args:
        recipe: of the run that begins.
        reuse: the other run's folder.
        inputs: the network and the images of the run that begins.

    Returns:
        At least 1, and fewer than the recipe's stages.

    Raises:
        ClatError: there is no run, or it shares no stage: images, first weights, data, seed or settings differ.
    """
    if not (reuse / "recipe.toml").is_file():
        raise ClatError(f"{reuse} holds no run to reuse: there is no recipe.toml in it")
    if other_data(reuse, inputs):
        raise ClatError(f"the run in {reuse} was trained on other images: it has nothing to reuse")
    if inputs.given != (first := reuse / "weights" / FIRST).is_file() or (
        inputs.given and not _holds(inputs.model, first)
    ):
        raise ClatError(f"the run in {reuse} started from other weights: it has nothing to reuse")
    if other_normalisation(reuse, inputs.model):
        raise ClatError(f"the network of the run in {reuse} normalises images otherwise: it has nothing to reuse")
    for number in range(len(recipe.stages) - 1, 0, -1):
        if state_hash(reuse / "states" / f"stage-{number}.safetensors") == recipe_hash(recipe, number):
            return number
    raise ClatError(f"{reuse} shares no finished stage with this recipe: model, data, seed or settings differ")


def other_data(run: Path, inputs: RunInputs) -> bool:
    """Return whether a run says that its images were others.

    Args:
        run: its folder.
        inputs: the images to compare with.

    Returns:
        False also where the run says nothing.
    """
    try:
        return bool(json.loads((run / "run.json").read_text())["data"]["fingerprint"] != inputs.fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def other_normalisation(run: Path, model: nn.Module) -> bool:
    """Return whether a run that was given its network from Python was given one with another normalisation.

    Args:
        run: its folder.
        model: the network to compare with.

    Returns:
        False also where the run built its network by its recipe, which says what it normalises by.
    """
    first = run / "weights" / FIRST
    if not first.is_file():
        return False
    before, now = recorded_statistics(read_metadata(first), first), statistics_of(model)
    return before != now and (before is None or now is None or not same_statistics(before, now))


def _holds(model: nn.Module, file: Path) -> bool:
    """Return whether a weight file holds just what the model does."""
    saved, _ = read_state(file)
    # An earlier version kept the name of a wrapper in the file.
    mine = next((own for one in (bare(model), model) if (own := one.state_dict()).keys() == saved.keys()), {})
    return saved.keys() == mine.keys() and all(torch.equal(saved[name], mine[name].cpu()) for name in mine)


def copy_beginning(recipe: Recipe, out: Path, inputs: RunInputs, reuse: Path) -> None:
    """Take over what another run did, up to the end of the last stage that both have.

    Args:
        recipe: of the run that begins.
        out: its folder, which is filled with the weights, rankings, metrics and state of these stages.
        inputs: its network and images.
        reuse: the other run's folder.

    Raises:
        ClatError: as `shared_stages`.
    """
    number = shared_stages(recipe, reuse, inputs)
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
