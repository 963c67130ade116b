"""A stage of training, set up by the real training loop and then stepped on one batch, again and again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from clat.data import Augment, ImageSet, Loader
from clat.network import modes
from clat.network.computed import copied_network
from clat.network.guard import guarded
from clat.network.outputs import logits_only
from clat.network.random_states import preserve_random_states
from clat.objectives import Loss
from clat.recipe.schema import DataConfig, MonitorConfig, Recipe, StageConfig
from clat.runtime.blocks import blocks_as
from clat.runtime.engine import Engine, EngineConfig
from clat.training.ranking import choose_layers
from clat.training.stage import StageRunner
from clat.training.start import as_batch


class RepeatedStep:
    """One training step of a stage on one batch, taken at learning rate 0, so that the weights stay what they are.

    It lives in the context `repeated_step` that made it.
    """

    def __init__(self, runner: StageRunner, x: Tensor, y: Tensor) -> None:
        self.runner, self.model = runner, runner.model
        self.x, self.y = runner.engine.images(x), y

    def run_step(self) -> Loss:
        """Take the step.

        Returns:
            The loss before it.
        """
        return self.runner.train_step(self.x, self.y, epoch=0, number=0, rate=0.0)

    def tensors(self) -> Iterator[Tensor]:
        """Yield what lives between two steps.

        Yields:
            The batch, the network's parameters and buffers, their gradients, the momentum.
        """
        yield from (self.x, self.y, *self.model.parameters(), *self.model.buffers())
        yield from (p.grad for p in self.model.parameters() if p.grad is not None)
        for state in self.runner.trainable.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def repeated_step(
    model: nn.Module, images: ImageSet, stage: StageConfig, engine: Engine, config: EngineConfig, *, seed: int = 0
) -> Iterator[RepeatedStep]:
    """Yield a training step of a stage, on a copy of a network and on one batch.

    Args:
        model: the network; it is copied.
        images: the batch.
        stage: the stage; its rule selects layers once, before the first step.
        engine: places network and batch on the device.
        config: precision, memory layout and compilation of the step.
        seed: of the selection and of the attacks' random starts.

    Yields:
        The step, which is of no use once the context has been left.
    """
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
    batch = as_batch(images, engine)
    placed = engine.place(copied_network(model))
    with (
        blocks_as(config, placed, count),
        modes.restore_flags(placed),
        guarded(placed),
        logits_only(placed),
        preserve_random_states(placed),
    ):
        runner = StageRunner(recipe, 0, placed, engine, loader, batch)
        runner.make_trainable(_selected(recipe, runner, batch), {})
        runner.after_selection(0, first=True)
        yield RepeatedStep(runner, *batch)


def _selected(recipe: Recipe, runner: StageRunner, heldout: tuple[Tensor, Tensor]) -> list[str]:
    """Return the layers that the stage's rule selects before its first epoch; none where it selects nothing."""
    rule = runner.config.selection
    if rule is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "criticality").mkdir()
        return choose_layers(
            rule,
            runner.candidates,
            model=runner.model,
            heldout=heldout,
            recipe=recipe,
            epoch=1,
            out=Path(folder),
        )[0]


def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """Set a network's BatchNorm statistics to those of a batch.

    Random weights alone let activations grow from layer to layer until the cross-entropy saturates, and arithmetic
    on the vanishing gradients is slower than usual.

    Args:
        model: the network; its buffers are changed in place.
        x: images (N, C, H, W), in [0, 1].

    Returns:
        The same network.
    """
    norms = modes.batch_norms(model)
    before = [(norm, norm.momentum) for norm in norms]
    with modes.restore_flags(model), torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()
        model(x)
    for norm, momentum in before:
        norm.momentum = momentum
    return model
