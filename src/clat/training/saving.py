"""What a run keeps of its network: weights to use, a state to go on from, and one after each stage for other
runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from clat.core.errors import ClatError
from clat.models.files import save_weights
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.runtime.callback_list import CallbackList
from clat.runtime.engine import Engine
from clat.training.stage import StageRunner
from clat.training.state import Checkpoint, Progress, save_state
from clat.training.trainable import TrainableSet

STATE = "state.safetensors"
"""Where a run stands, in its folder."""


class Diverged(ClatError):
    """The loss or a weight is not finite. The last state and the best checkpoint stay as they were."""


def diverged(what: str, recipe: Recipe, progress: Progress, step: int, out: Path) -> Diverged:
    """Return the error for something that is no longer finite.

    Args:
        what: its name, such as "the loss".
        recipe: the run's.
        progress: where the run stands.
        step: the step of the epoch at which it was found, counted from 1.
        out: the run's folder, where the last good state is.

    Returns:
        The error, to be raised.
    """
    place = f"stage '{recipe.stages[progress.stage].name}', epoch {progress.epoch + 1}, step {step}"
    kept = f"; the last good state and the best checkpoint are in {out}" if (out / STATE).exists() else ""
    return Diverged(f"{what} is not finite ({place}): lower the learning rate{kept}")


class RunFiles:
    """The files of a run in its folder. Every process calls these methods; only the first one writes.

    Args:
        out: the folder.
        recipe: the run's.
        model: the network whose weights are kept.
        engine: tells the processes apart.
        name: what the network is called in the files, if not by the recipe.
    """

    def __init__(
        self, out: Path, recipe: Recipe, model: nn.Module, engine: Engine, name: str | None = None
    ) -> None:
        self.out, self.recipe, self.model, self.engine = out, recipe, model, engine
        self.name = recipe.model.name if name is None else name
        self.hash = recipe_hash(recipe)

    def require_finite(self, progress: Progress, trainable: TrainableSet) -> None:
        """Raise an error before a weight or a statistic that has become useless is saved anywhere.

        Args:
            progress: where the run stands, for the message.
            trainable: what moves.

        Raises:
            Diverged: a value is infinite or not a number, in any process.
        """
        values = (*trainable.parameters.values(), *self.model.buffers())
        if self.engine.any_of(not all(bool(torch.isfinite(value).all()) for value in values)):
            raise diverged("a weight", self.recipe, progress, progress.step, self.out)

    def keep_weights(self, name: str, progress: Progress, callbacks: CallbackList) -> None:
        """Write the plain network, as it stands after the last check, as weights/NAME.safetensors.

        Args:
            name: the file's name.
            progress: where the run stands; its last check gives the epoch.
            callbacks: turn the network's state into that of a plain one.
        """
        if self.engine.rank > 0:
            return
        assert progress.last is not None  # weights are saved after a check
        about = {"clat.model": self.name, "clat.epoch": str(progress.last["epoch"])}
        plain = callbacks.export_state(dict(self.model.state_dict()))
        save_weights(self.model, self.out / "weights" / f"{name}.safetensors", about, state=plain)

    def snapshot(self, progress: Progress, runner: StageRunner) -> Checkpoint:
        """Return where the run stands.

        Processes have buffers of their own between the ends of epochs, when BatchNorm statistics are averaged, and
        callbacks may have more.

        Args:
            progress: the run's; the callbacks' scalars enter it.
            runner: the stage in progress.

        Returns:
            Everything that resuming needs; tensors are not copied.

        Raises:
            Diverged: a weight is not finite.
        """
        self.require_finite(progress, runner.trainable)
        callbacks = runner.callbacks
        progress.callbacks = callbacks.all_scalars()
        weights, own = self.model.state_dict(), callbacks.per_process_state()
        buffers = {
            name: value for name, value in self.model.named_buffers(remove_duplicate=False) if name in weights
        }
        theirs = {f"model.{name}": value for name, value in buffers.items()}
        theirs |= {f"companion.{name}": value for name, value in own.items()}
        tensors = callbacks.tensors() | own
        return Checkpoint(progress, weights, runner.trainable.optimizer_state, tensors, self.engine.gather(theirs))

    def save(self, saved: Checkpoint) -> None:
        """Write the state to resume from.

        Args:
            saved: as `snapshot` gives it.
        """
        if self.engine.rank == 0:
            save_state(self.out / STATE, saved, self.hash)

    def keep_for_reuse(self, saved: Checkpoint) -> None:
        """Write the state after a stage, and the best weights so far, under the hash of what led to them.

        A recipe with the same beginning can start from here (`clat.training.reuse`).

        Args:
            saved: as `snapshot` gives it, after the stage.
        """
        if self.engine.rank > 0:
            return
        number = saved.progress.stage
        best = self.out / "weights" / "best.safetensors"
        (self.out / "states" / f"stage-{number}.best.safetensors").write_bytes(best.read_bytes())
        save_state(self.out / "states" / f"stage-{number}.safetensors", saved, recipe_hash(self.recipe, number))
