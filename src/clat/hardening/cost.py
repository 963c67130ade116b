"""What a hardening costs on this machine: a training step of each candidate, measured on the network and images at
hand, and what comes after the training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.bench.repeated_step import repeated_step
from clat.bench.timing import interleaved
from clat.data import ImageSet
from clat.evaluation.heldout import heldout_accuracies
from clat.hardening.finish import STATISTICS_BATCHES
from clat.hardening.inputs import HardenInputs
from clat.hardening.recipe import MONITOR_STEPS
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import MASKING_PASSES, images_to_check
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig
from clat.treatments.interpolation import ALPHAS

ROUNDS, MOST_ROUNDS = 3, 30
MEASURED_SHARE = 0.02
"""The part of the budget that measuring may take."""
TIMED_IMAGES = 128
"""Held-out images on which a check is timed."""


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


def check_seconds(
    inputs: HardenInputs, x: Tensor, y: Tensor, config: HardenConfig, *, steps: int = MONITOR_STEPS
) -> float:
    """Return what the check after an epoch takes for an image: in the precision of the training, other than a test.

    Args:
        inputs: the network, which stays as it is, and the engine.
        x: held-out images in [0, 1], (N, C, H, W), on the device.
        y: their labels, (N,) int64, there too.
        config: the threat model.
        steps: of the attack.

    Returns:
        Seconds.
    """
    attack, started = Attack(config.threat, steps=steps), 0.0
    for count in (8, TIMED_IMAGES):  # the first warms up
        started = time.perf_counter()
        heldout_accuracies(
            inputs.model, inputs.engine, x[:count], y[:count], attack, batch_size=TIMED_IMAGES, seed=config.seed
        )
    return (time.perf_counter() - started) / min(TIMED_IMAGES, len(x))


def closing_seconds(
    config: HardenConfig, inputs: HardenInputs, seconds_per_pass: float, check: float, tested: int
) -> float:
    """Return the seconds of what comes after the training beside the test: promise, look for gradient masking.

    Args:
        config: what the user asked for.
        inputs: the network's images.
        seconds_per_pass: what one forward and backward pass of an image takes in an attack of a test.
        check: what a check of a held-out image takes, see `check_seconds`.
        tested: how many test images there will be.

    Returns:
        Seconds, an upper bound: an attack leaves out images that it has fooled.
    """
    seconds = 0.0
    if config.max_clean_drop is not None:
        statistics_passes = STATISTICS_BATCHES * config.batch_size / 3  # forward alone, a third of a pass
        seconds += len(ALPHAS) * (len(inputs.heldout) * check + statistics_passes * seconds_per_pass)
    return seconds + images_to_check(config, tested, seconds_per_pass) * MASKING_PASSES * seconds_per_pass
