"""What a run keeps of its network: weights to use, a state to go on from, and one after each stage for other
runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.models.files import load_weights, save_weights
from clat.network.exchange import copied
from clat.network.slices import own_slice, whole
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.runtime.callback_list import CallbackList
from clat.runtime.engine import Engine
from clat.training.stage import StageRunner
from clat.training.state import SUMS, Checkpoint, Progress, save_state
from clat.training.trainable import TrainableSet
from clat.training.writer import BackgroundWriter

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

    What is to be written is copied, and written in a thread while training goes on (`clat.training.writer`).

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
        # What has infinities from the beginning, such as an attention's mask, is meant to.
        self._unbounded = {name for name, value in model.named_buffers() if not torch.isfinite(value).all()}
        self.writer = BackgroundWriter(engine.device)

    @contextmanager
    def all_written(self) -> Iterator[None]:
        """Have everything on disk when the code inside has ended, however it ends.

        Yields:
            Nothing; the body trains.

        Raises:
            ClatError: a file could not be written.
        """
        try:
            yield
            self.writer.wait()
        finally:
            self.writer.close()

    def require_finite(self, progress: Progress, trainable: TrainableSet) -> None:
        """Raise an error before a weight or a statistic that has become useless is saved anywhere.

        Args:
            progress: where the run stands, for the message.
            trainable: what moves.

        Raises:
            Diverged: a value is infinite or not a number, in any process.
        """
        buffers = [value for name, value in self.model.named_buffers() if name not in self._unbounded]
        values = [own_slice(value) for value in (*trainable.parameters.values(), *buffers)]
        if self.engine.any_of(not all(bool(torch.isfinite(value).all()) for value in values)):
            self.writer.wait()
            raise diverged("a weight", self.recipe, progress, progress.step, self.out)

    def keep_weights(self, name: str, progress: Progress, callbacks: CallbackList) -> None:
        """Write the plain network, as it stands after the last check, as weights/NAME.safetensors.

        Args:
            name: the file's name.
            progress: where the run stands; its last check gives the epoch.
            callbacks: turn the network's state into that of a plain one.
        """
        state = whole(self.model.state_dict(), keep=self.engine.rank == 0)
        if self.engine.rank > 0:
            return
        assert progress.last is not None  # weights are saved after a check
        about = {"clat.model": self.name, "clat.epoch": str(progress.last["epoch"])}
        exported = callbacks.export_state(state)
        plain = copied({name: value for name, value in exported.items() if isinstance(value, Tensor)})
        file = self.out / "weights" / f"{name}.safetensors"
        self.writer.submit(lambda: save_weights(self.model, file, about, state=plain))

    def snapshot(self, progress: Progress, runner: StageRunner) -> Checkpoint:
        """Return where the run stands.

        Processes have buffers and sums of losses of their own between the ends of epochs, when they are averaged,
        and callbacks may have more.

        Args:
            progress: the run's; the callbacks' scalars enter it.
            runner: the stage in progress.

        Returns:
            Everything that resuming needs, in copies of its own in the first process, which writes it.

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
        if progress.sums:
            theirs[SUMS] = self.engine.numbers(progress.sums, self.engine.from_first(list(progress.sums)))
        tensors = callbacks.tensors() | own
        gathered = self.engine.gather(theirs)
        first = self.engine.rank == 0
        remembered = {k: whole(one, keep=first) for k, one in runner.trainable.optimizer_state.items()}
        weights, tensors = whole(weights, keep=first), whole(tensors, keep=first)
        saved = Checkpoint(progress, weights, remembered, tensors, gathered)
        return saved.copied() if first else saved

    def load(self, name: str) -> None:
        """Put weights that were kept back into the network of the first process.

        Args:
            name: the file's name.
        """
        self.writer.wait()
        if self.engine.rank == 0:
            load_weights(self.model, self.out / "weights" / f"{name}.safetensors")

    def save(self, saved: Checkpoint, *, now: bool = False) -> None:
        """Have the state to resume from written.

        Args:
            saved: as `snapshot` gives it.
            now: wait until it is on disk.
        """
        if self.engine.rank == 0:
            self.writer.submit(lambda: save_state(self.out / STATE, saved, self.hash))
        if now:
            self.writer.wait()

    def keep_for_reuse(self, saved: Checkpoint) -> None:
        """Write the state after a stage, and the best weights so far, under the hash of what led to them.

        A recipe with the same beginning can start from here (`clat.training.reuse`).

        Args:
            saved: as `snapshot` gives it, after the stage.
        """
        if self.engine.rank > 0:
            return
        number = saved.progress.stage
        best, states = self.out / "weights" / "best.safetensors", self.out / "states"

        def write() -> None:
            (states / f"stage-{number}.best.safetensors").write_bytes(best.read_bytes())
            save_state(states / f"stage-{number}.safetensors", saved, recipe_hash(self.recipe, number))

        self.writer.submit(write)
