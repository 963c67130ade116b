"""Intervals of a mean over seeds and images together.

Networks of several seeds are measured on the same images: a mean over both moves with the choice of either. Its
standard error is that of two crossed random factors, from the mean squares of the two-way layout, its degrees of
freedom are Satterthwaite's (1946), and the interval is Student's t. (A percentile interval of a bootstrap of both
held the mean in 67 to 90 of 100 simulated cases of two or three seeds: it does not know how few they are.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are loaded where they are used
import torch
from numpy.typing import NDArray

from clat.evaluation.statistics import Accuracy, PairedDifference

CONFIDENCE, CROSSED = 0.95, "crossed-t"
FEW = 10
"""Images, on the mean of the seeds: of fewer that count, Student's interval is too narrow, and is widened to hold
the one over images (Wilson's, or Bonett and Price's) as well."""


@dataclass(frozen=True)
class CrossedInterval:
    """A mean over seeds and images with its 95 % interval."""

    value: float
    low: float
    high: float
    seeds: int
    images: int
    method: str = CROSSED

    def to_dict(self) -> dict[str, float | int | str]:
        """Return plain data.

        The interval of a single seed, or of seeds that agree in all, is over images alone, and `over` says so.

        Returns:
            The fields, and what the interval is over.
        """
        both = self.seeds > 1 and self.method == CROSSED
        return {**vars(self), "over": "seeds and images" if both else "images"}

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def crossed_interval(values: NDArray[np.float64], *, least: float = -1.0) -> CrossedInterval:
    """Return the mean of differences of verdicts with its interval.

    Args:
        values: (S, N), a row a seed, a column an image: the verdicts of one network, 1 and 0 for right and wrong,
            less those of the other one of that seed.
        least: the lowest mean there can be, at which the interval is cut; the highest is 1.

    Returns:
        The mean and its interval, in the unit of the values. Of a single seed it speaks of those two networks, over
        images alone. Where all values are the same, of which a standard error says nothing, it is that of a paired
        difference over images.
    """
    seeds, images = values.shape
    value = float(values.mean())
    if values.min() == values.max():
        one = torch.from_numpy(values[0])
        low, high = PairedDifference.between(one < 0, one > 0).interval
        return CrossedInterval(value, low, high, seeds, images, "bonett-price")
    lost, gained = (round(float(part.sum()) / seeds) for part in (values < 0, values > 0))
    over_images = PairedDifference(lost, gained, images).interval
    return CrossedInterval(value, *_of_both(values, least, lost + gained, over_images), seeds, images)


def accuracy_interval(verdicts: NDArray[np.float64]) -> CrossedInterval:
    """Return an accuracy with its interval.

    Args:
        verdicts: (S, N), 1 and 0 for right and wrong, a row a seed, a column an image.

    Returns:
        The accuracy and its interval: Wilson's over images where there is one seed, or all verdicts are the same,
        of which a standard error says nothing.
    """
    seeds, images = verdicts.shape
    if seeds > 1 and verdicts.min() < verdicts.max():
        right = round(float(verdicts.sum()) / seeds)
        over_images = Accuracy(right, images, CONFIDENCE).interval
        found = _of_both(verdicts, 0.0, min(right, images - right), over_images)
        return CrossedInterval(float(verdicts.mean()), *found, seeds, images)
    one = Accuracy(int(verdicts[0].sum()), images, CONFIDENCE)
    return CrossedInterval(one.value, *one.interval, seeds, images, "wilson")


def _of_both(
    values: NDArray[np.float64], least: float, counting: int, over_images: tuple[float, float]
) -> tuple[float, float]:
    """Return Student's interval of the mean over seeds and images, cut at `least` and 1.

    Where few images count, it is widened to hold the one over images as well.
    """
    error, freedom = standard_error(values)
    value, reach = float(values.mean()), float(scipy.stats.t.isf((1 - CONFIDENCE) / 2, freedom)) * error
    low, high = max(value - reach, least), min(value + reach, 1.0)
    return (low, high) if counting >= FEW else (min(low, over_images[0]), max(high, over_images[1]))


def standard_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error of a mean over seeds and images, and its degrees of freedom.

    With MS for the mean squares of seeds, images and what is left, S seeds and N images,
    Var(mean) = (MS_seeds + MS_images - MS_rest) / (S N).

    Args:
        values: (S, N); a single image says nothing of images, and a single seed nothing of seeds.

    Returns:
        (standard error, degrees of freedom); infinity and 1 where there is one value.
    """
    seeds, images = values.shape
    if seeds == images == 1:
        return math.inf, 1.0
    if seeds == 1 or images == 1:
        means = values.mean(axis=0) if seeds == 1 else values.mean(axis=1)
        return float(means.std(ddof=1)) / math.sqrt(len(means)), len(means) - 1.0
    of_seeds, of_images, of_rest = mean_squares(values)
    parts = [
        (of_seeds, seeds - 1.0),
        (of_images, images - 1.0),
        (-of_rest, (seeds - 1.0) * (images - 1)),
    ]
    whole = sum(square for square, _ in parts)
    whole = max(whole, *(abs(square) for square, _ in parts))  # where the seeds differ by less than chance
    spread = sum(square**2 / free for square, free in parts)
    if spread == 0:
        return 0.0, images - 1.0
    return math.sqrt(whole / (seeds * images)), whole**2 / spread


def mean_squares(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean squares of the two-way layout without repetition.

    Args:
        values: (S, N), a row a seed, a column an image, two of each at least.

    Returns:
        Those of seeds, of images, and of what is left.
    """
    seeds, images = values.shape
    by_image, by_seed = values.mean(axis=0), values.mean(axis=1)
    rest = values - by_image[None, :] - by_seed[:, None] + values.mean()
    left = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    return images * float(by_seed.var(ddof=1)), seeds * float(by_image.var(ddof=1)), left
