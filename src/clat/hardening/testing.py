"""The test before and after a hardening: how many test images, and what they cost under its protocol."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from torch import Tensor

from clat.core.formatting import duration
from clat.data import ImageSet
from clat.evaluation.effort import mean_passes
from clat.evaluation.protocols import Protocol
from clat.hardening.look import FirstLook
from clat.hardening.settings import HardenConfig

MOST, FEWEST = 1000, 100
"""Test images where nobody says how many: MOST, or what TEST_SHARE of the budget allows, but at least FEWEST."""
TEST_SHARE = 0.15
MASKING_PASSES = 800
"""Forward and backward passes an image, about, of the look for gradient masking."""
MASKING_SHARE = 0.1
"""The part of the budget that the look may take: on fewer images then, but on LEAST_MASKING at least or none."""
MOST_MASKING, LEAST_MASKING = 100, 20
WITHSTANDS = 0.6
"""The part of the images that the start is right on which the hardened network is expected to withstand: 0.4 in
`docs/results/hardening`, 0.7 in the demo."""
FALLS_AT_ONCE = 10
"""Passes of an image of an ordinary network, which falls in an attack's first steps (benchmarks/cr.md)."""


@dataclass(frozen=True)
class FinalTest:
    """What both networks are measured on and by: some images of the test split, by their numbers in it."""

    images: ImageSet
    """All of the split."""
    ids: Tensor
    """Numbers of those that are measured, (N,) int64."""
    protocol: Protocol


def image_seconds(protocol: Protocol, seen: FirstLook, classes: int) -> float:
    """Return what a test image costs, before and after together.

    Args:
        protocol: its attacks.
        seen: how right and robust the network is before, and what a pass takes.
        classes: outputs of the network.

    Returns:
        Seconds.
    """
    clean = seen.clean.value
    before = mean_passes(protocol, clean, seen.robust.value, classes, fooled=FALLS_AT_ONCE)
    after = mean_passes(protocol, clean, WITHSTANDS * clean, classes)
    return (before + after) / 2 * seen.seconds_per_pass


def images_to_test(config: HardenConfig, available: int, seconds: float) -> int:
    """Return how many test images are measured.

    Args:
        config: the number asked for, or else the budget that decides.
        available: images of the test split.
        seconds: what one costs, see `image_seconds`.

    Returns:
        At most `available`.
    """
    if config.num_samples is not None:
        return min(config.num_samples, available)
    fit = MOST if config.budget is None else int(TEST_SHARE * config.budget_seconds / seconds)
    return min(max(fit, FEWEST), MOST, available)


def images_to_check(config: HardenConfig, tested: int, seconds_per_pass: float) -> int:
    """Return on how many test images signs of gradient masking are looked for.

    Args:
        config: the budget.
        tested: test images that are measured, of which these are some.
        seconds_per_pass: what a forward and backward pass of one image takes.

    Returns:
        At most MOST_MASKING; 0 where there are not LEAST_MASKING, or the budget does not allow them.
    """
    fit = min(tested, MOST_MASKING)
    if config.budget is not None:
        fit = min(fit, int(MASKING_SHARE * config.budget_seconds / (MASKING_PASSES * seconds_per_pass)))
    return fit if fit >= LEAST_MASKING else 0


def number_reason(config: HardenConfig, chosen: int, available: int) -> str:
    """Return what is measured before and after, in one line, and why on so many images.

    Args:
        config: what the user asked for.
        chosen: as `images_to_test` returns it.
        available: images of the test split.

    Returns:
        The line.
    """
    if config.num_samples is not None:
        why = ", as asked for" if chosen == config.num_samples else ", which are all that there are"
    elif chosen < min(MOST, available):
        why = f", as more would take over {TEST_SHARE:.0%} of the budget (--num-samples)"
    else:
        why = ""
    return f"before and after are measured under {config.protocol} on {chosen:,} of {available:,} test images{why}"


def ending(seconds: float) -> str:
    """Return how long something takes from now on, and until when, in local time.

    Args:
        seconds: what it takes.

    Returns:
        Such as "57 min 30 s, until about 14:32".
    """
    now = datetime.now()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:  # beyond the year 9999
        return duration(seconds)
    day = "" if end.date() == now.date() else f"{end:%d %B}, " if end.year == now.year else f"{end:%d %B %Y}, "
    return f"{duration(seconds)}, until about {day}{end:%H:%M}"
