"""What a training step of each candidate costs on this machine, measured on the network and images at hand."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from clat.bench.repeated_step import repeated_step
from clat.bench.timing import interleaved
from clat.data import ImageSet
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig

ROUNDS = 3


def step_seconds(
    model: nn.Module, images: ImageSet, stages: Mapping[str, StageConfig], config: EngineConfig, *, seed: int = 0
) -> dict[str, float]:
    """Return the seconds of a training step of each stage on all of `images`, one batch.

    Args:
        model: stays as it is; copies of it are stepped, at learning rate 0.
        images: a batch's worth.
        stages: label -> stage.
        config: device, precision and memory layout.
        seed: decides the steps' attacks.

    Returns:
        Label -> seconds, from ROUNDS timed rounds.
    """
    found = {}
    for label, stage in stages.items():
        with repeated_step(model, images, stage, Engine(config), config, seed=seed) as step:
            found[label] = interleaved({label: step.run_step}, ROUNDS)[label].seconds
    return found
