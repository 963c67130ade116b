"""Intervals over seeds and images together, by the bootstrap of both.

Networks of several seeds are measured on the same images: a mean over both moves with the choice of either. Each
replicate draws seeds and images anew, independently of each other (the crossed bootstrap of Owen 2007, "The
pigeonhole bootstrap"). Of S seeds S - 1 are drawn: with S the spread would come out too small by (S - 1) / S (Rao
and Wu 1988), which for three seeds is a third of the variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

REPLICATES = 2000


@dataclass(frozen=True)
class CrossedInterval:
    """A mean over seeds and images with its 95 % percentile interval."""

    value: float
    low: float
    high: float
    seeds: int
    images: int

    def to_dict(self) -> dict[str, float | int | str]:
        """Return plain data; a single seed's interval is over images alone, and `over` says so.

        Returns:
            The fields, what the interval is over, and how it was made.
        """
        over = "seeds and images" if self.seeds > 1 else "images"
        return {**vars(self), "over": over, "method": "crossed-bootstrap"}

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def crossed_interval(verdicts: NDArray[np.float64], *, seed: int = 0) -> CrossedInterval:
    """Return the mean of verdicts, or of their differences, with its interval.

    Args:
        verdicts: (S, N), a row a seed, a column an image: 1 and 0 for right and wrong, or the differences of two
            such, each seed's network against the other one of that seed.
        seed: of the draws.

    Returns:
        The mean and its interval, in the unit of the verdicts.
    """
    seeds, images = verdicts.shape
    which, how_often = _draws(seeds, images, seed)
    means = ((which @ verdicts.astype(np.float32)) * how_often).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return CrossedInterval(float(verdicts.mean()), float(low), float(high), seeds, images)


@lru_cache(maxsize=4)  # a table has hundreds of cells on the same images, and the draws take most of the time
def _draws(seeds: int, images: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weights of seeds (REPLICATES, S) and of images (REPLICATES, N) in each replicate; rows add up to
    1."""
    random = np.random.default_rng(seed)
    drawn = seeds - 1 if seeds > 1 else 1
    which = random.multinomial(drawn, np.full(seeds, 1 / seeds), size=REPLICATES) / drawn
    how_often = random.multinomial(images, np.full(images, 1 / images), size=REPLICATES) / images
    return which.astype(np.float32), how_often.astype(np.float32)
