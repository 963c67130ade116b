"""What a run starts from: the weights that its network has in every process, and a saved state, if there is one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from clat.core.errors import ClatError
from clat.core.files import clear_temporaries
from clat.data import ImageSet
from clat.data.loader import Loader
from clat.models import load_weights, save_weights
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.runtime.engine import Engine
from clat.training.beginning import FIRST
from clat.training.prepare import RunInputs
from clat.training.reuse import copy_beginning
from clat.training.run_folder import FOLDERS
from clat.training.saving import STATE
from clat.training.state import Checkpoint, load_state


def starting_state(
    recipe: Recipe, out: Path, inputs: RunInputs, reuse: Path | None, engine: Engine
) -> Checkpoint | None:
    """Give the network its first weights, the same in every process, and return the state to go on from.

    Args:
        recipe: the run's.
        out: its folder; what a killed run left half written there is removed.
        inputs: with the network.
        reuse: the folder of another run with a common beginning, if any.
        engine: the processes, launched.

    Returns:
        The run's own state, or that of the common beginning; None: the run is fresh.

    Raises:
        ClatError: this machine does not see the first process's folder.
    """
    model = inputs.model
    state, first = out / STATE, out / "weights" / FIRST
    if engine.rank == 0:
        for folder in FOLDERS:
            clear_temporaries(out / folder)
        clear_temporaries(out)
        if reuse is not None:
            copy_beginning(recipe, out, reuse)
        elif not state.exists() and first.exists():
            load_weights(model, first)  # killed before its first state
        elif inputs.given and not first.exists():
            save_weights(model, first)
    engine.share(model)
    engine.wait()
    there = engine.from_first(state.exists())
    if there and not state.exists():
        raise ClatError(f"this machine does not see {state}: give a folder on storage that all machines share")
    return load_state(state, recipe_hash(recipe), engine.rank, engine.world) if there else None


def as_batch(images: ImageSet, engine: Engine) -> tuple[Tensor, Tensor]:
    """Return a whole set as one batch.

    Args:
        images: the set.
        engine: says the device and the memory layout.

    Returns:
        Images (N, C, H, W) in [0, 1] and their labels, on the device.
    """
    x, y = next(iter(Loader(images, len(images), device=engine.device).epoch()))
    return engine.images(x), y
