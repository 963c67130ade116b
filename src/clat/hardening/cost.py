"""What a hardening costs on this machine: a training step of each candidate, measured on the network and images at
hand, and what comes after the training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from torch import nn

from clat.bench.repeated_step import repeated_step
from clat.bench.timing import interleaved
from clat.data import ImageSet
from clat.hardening.finish import CHECKED, MASKING_PASSES, MASKING_SHARE, STATISTICS_BATCHES
from clat.hardening.inputs import HardenInputs
from clat.hardening.settings import HardenConfig
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig
from clat.treatments.interpolation import ALPHAS

ROUNDS, MOST_ROUNDS = 3, 30
MEASURED_SHARE = 0.02
"""The part of the budget that measuring may take."""
EVALUATION_PASSES = 21
"""Forward and backward passes an image of PGD-20, the default protocol, before shortcuts."""
FOOLED_PASSES = 4
"""The same on an image that falls at the first steps, where the evaluation leaves it."""
CHECK_PASSES = 12
"""The same of a check on held-out images: PGD of ten steps, and the clean pass."""


def step_seconds(
    model: nn.Module,
    images: ImageSet,
    stages: Mapping[str, StageConfig],
    config: EngineConfig,
    *,
    seed: int = 0,
    seconds: float = 0.0,
) -> dict[str, float]:
    """Return the seconds of a training step of each stage on all of `images`, one batch.

    Args:
        model: stays as it is; copies of it are stepped, at learning rate 0.
        images: a batch's worth.
        stages: label -> stage.
        config: device, precision and memory layout.
        seed: decides the steps' attacks.
        seconds: to spend on measuring, in all; a machine that is busy now and then is judged better over longer.

    Returns:
        Label -> seconds, the median over ROUNDS to MOST_ROUNDS timed rounds.
    """
    found = {}
    for label, stage in stages.items():
        with repeated_step(model, images, stage, Engine(config), config, seed=seed) as step:
            first = interleaved({label: step.run_step}, ROUNDS)[label]
            more = int(min(seconds / len(stages) / first.seconds, MOST_ROUNDS)) - ROUNDS
            later = interleaved({label: step.run_step}, more, warmup=0)[label].wall if more > 0 else []
            found[label] = statistics.median([*first.wall, *later])
    return found


def closing_seconds(
    config: HardenConfig, inputs: HardenInputs, seconds_per_pass: float, *, robust: float = 1.0
) -> float:
    """Return the seconds of what comes after the training: the promise, the test before and after, the look for
    gradient masking.

    Args:
        config: what the user asked for.
        inputs: the network's images.
        seconds_per_pass: what one forward and backward pass of an image takes in an attack.
        robust: the share of images that the network withstands before the training.

    Returns:
        Seconds, an upper bound: an attack leaves out images that it has fooled.
    """
    tested = min(config.num_samples or len(inputs.test), len(inputs.test))
    before = robust * EVALUATION_PASSES + (1 - robust) * FOOLED_PASSES
    passes: float = tested * (before + EVALUATION_PASSES)
    if config.max_clean_drop is not None:
        passes += len(ALPHAS) * (len(inputs.heldout) * CHECK_PASSES + STATISTICS_BATCHES * config.batch_size / 3)
    masking = min(CHECKED, tested) * MASKING_PASSES
    if config.budget is None or masking * seconds_per_pass <= MASKING_SHARE * config.budget:
        passes += masking
    return passes * seconds_per_pass
