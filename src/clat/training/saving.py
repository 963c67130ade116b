"""What a run keeps of its network: weights to use, a state to go on from, and one after each stage for other runs.

Only the first process writes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from clat.core.errors import ClatError
from clat.models.files import save_weights
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.runtime.callback import CallbackList
from clat.runtime.engine import Engine
from clat.training.state import Checkpoint, Progress, save_state
from clat.training.trainable import TrainableSet

STATE = "state.safetensors"
"""Where a run stands, in its folder."""


class Diverged(ClatError):
    """The loss or a weight is not finite. The last state and the best checkpoint stay as they were."""


def diverged(what: str, recipe: Recipe, progress: Progress, step: int, out: Path) -> Diverged:
    """The error for `what`, found at the `step`-th step of the epoch."""
    place = f"stage '{recipe.stages[progress.stage].name}', epoch {progress.epoch + 1}, step {step}"
    kept = f"; the last good state and the best checkpoint are in {out}" if (out / STATE).exists() else ""
    return Diverged(f"{what} is not finite ({place}): lower the learning rate{kept}")


def all_finite(model: nn.Module, trainable: TrainableSet) -> bool:
    """Whether everything that a stage changes still has a use."""
    values = (*trainable.parameters.values(), *model.buffers())
    return all(bool(torch.isfinite(value).all()) for value in values)


def keep_weights(
    out: Path, name: str, model: nn.Module, callbacks: CallbackList, recipe: Recipe, progress: Progress
) -> None:
    """The plain network, as it stands after the last check, as weights/NAME.safetensors."""
    assert progress.last is not None  # weights are saved after a check
    about = {"clat.model": recipe.model.name, "clat.epoch": str(progress.last["epoch"])}
    plain = callbacks.export_state(dict(model.state_dict()))
    save_weights(model, out / "weights" / f"{name}.safetensors", about, state=plain)


def snapshot(
    progress: Progress, model: nn.Module, trainable: TrainableSet, callbacks: CallbackList, engine: Engine
) -> Checkpoint:
    """Where a run stands. Processes have buffers of their own between the ends of epochs, when BatchNorm statistics
    are averaged, and callbacks may have more. All must call it."""
    weights, own = model.state_dict(), callbacks.per_process_state()
    buffers = {name: value for name, value in model.named_buffers(remove_duplicate=False) if name in weights}
    theirs = {f"model.{name}": value for name, value in buffers.items()}
    theirs |= {f"companion.{name}": value for name, value in own.items()}
    return Checkpoint(
        progress, weights, trainable.optimizer_state, callbacks.tensors() | own, engine.gather(theirs)
    )


def keep_for_reuse(out: Path, recipe: Recipe, saved: Checkpoint) -> None:
    """The state after a stage, and the best weights so far, under the hash of what led to them: a recipe with the
    same beginning can start from here (`clat.training.reuse`)."""
    number = saved.progress.stage
    best = out / "weights" / "best.safetensors"
    (out / "states" / f"stage-{number}.best.safetensors").write_bytes(best.read_bytes())
    save_state(out / "states" / f"stage-{number}.safetensors", saved, recipe_hash(recipe, number))
