"""A stage of training, set up by the real training loop and then stepped on one batch, again and again."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from clat.data import Augment, ImageSet, Loader
from clat.network import modes
from clat.network.compiled import blocks_compiled
from clat.network.guard import guarded
from clat.objectives import Loss
from clat.recipe.schema import DataConfig, MonitorConfig, Recipe, StageConfig
from clat.runtime.engine import Engine, EngineConfig
from clat.training.interrupt import StopFlag
from clat.training.log import RunLog
from clat.training.trainer import Trainer


class Subject(Trainer):
    """`again()` is a training step of the loop itself at learning rate 0, so that the weights stay what they are.

    It lives in the context `subject` that made it.
    """

    def settle(self) -> None:
        """What a stage does before its first epoch."""
        stage = self.recipe.stages[0]
        candidates = self._candidates(stage)
        self._join()
        self._adopt(stage, candidates)
        if stage.selection is not None:
            self._select(stage, candidates)
        self._begin(stage, 0)
        x, self.y = self.heldout
        self.x = self.engine.images(x)

    def again(self) -> Loss:
        return self._train_step(self.recipe.stages[0], self.x, self.y, 0.0)

    def tensors(self) -> Iterator[Tensor]:
        """What lives between two steps: the network, its gradients, the momentum, the batch."""
        yield from (self.x, self.y, *self.model.parameters(), *self.model.buffers())
        yield from (p.grad for p in self.model.parameters() if p.grad is not None)
        for state in self.moving.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def subject(
    model: nn.Module, images: ImageSet, stage: StageConfig, engine: Engine, config: EngineConfig, *, seed: int = 0
) -> Iterator[Subject]:
    """`stage` on a copy of `model`, ready to step on all of `images`."""
    count = len(images)
    recipe = Recipe(
        stages=(stage,),
        batch_size=count,
        seed=seed,
        data=DataConfig(heldout=count),
        monitor=MonitorConfig(steps=1, num_samples=1),
        engine=config,
    )
    loader = Loader(images, count, device=engine.device, shuffle=True, augment=Augment(), drop_last=True)
    batch = next(iter(Loader(images, count, device=engine.device).epoch()))
    with tempfile.TemporaryDirectory() as folder:
        for part in ("weights", "criticality", "states"):
            (Path(folder) / part).mkdir()
        placed = engine.place(copy.deepcopy(model))
        log = RunLog(None, quiet=True)
        made = Subject(recipe, placed, loader, batch, engine, log, Path(folder), StopFlag())
        compiled = blocks_compiled(placed, count) if config.compile else nullcontext()
        with compiled, modes.remembered(placed), guarded(placed), torch.random.fork_rng(devices=[]):
            made.settle()
            yield made


def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with the BatchNorm statistics of `x`: random weights alone let activations grow from layer to
    layer until the cross-entropy saturates, and arithmetic on the vanishing gradients is slower than usual."""
    norms = modes.batch_norms(model)
    before = [(norm, norm.momentum) for norm in norms]
    with modes.remembered(model), torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()
        model(x)
    for norm, momentum in before:
        norm.momentum = momentum
    return model
