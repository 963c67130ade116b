"""A form against a control: the difference over seeds and images, how sure it is, and what could have been seen.

The standard error is that of a mean over two crossed random factors, seeds and images, from the mean squares of the
two-way layout; its degrees of freedom follow Satterthwaite (1946). Several tests at once are corrected as Holm
(1979) has it. The interval is the crossed bootstrap's (`clat.evaluation.bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts are loaded where they are used
from numpy.typing import NDArray

from clat.evaluation.bootstrap import crossed_interval

LEVEL, POWER = 0.05, 0.8
"""Of a two-sided test, and the probability with which it is to find what is there."""


@dataclass(frozen=True, kw_only=True)
class CrossedDifference:
    """One accuracy less another, seed by seed and image by image; all in [-1, 1] but p."""

    value: float
    low: float
    high: float
    error: float
    """Standard error over seeds and images."""
    freedom: float
    """Its degrees of freedom."""
    p: float
    """Two-sided, against no difference; not corrected."""

    @property
    def detectable(self) -> float:
        """Return the smallest true difference that a test at LEVEL would find with a probability of POWER."""
        return smallest_shift(self.freedom) * self.error

    @property
    def upper(self) -> float:
        """Return the value above which the true difference does not lie, with a confidence of 1 - LEVEL / 2."""
        return self.value + float(scipy.stats.t.isf(LEVEL / 2, self.freedom)) * self.error

    def to_dict(self) -> dict[str, Any]:
        """Return plain data.

        Returns:
            The fields, the bound, and the smallest difference that could have been seen.
        """
        return {**vars(self), "upper": self.upper, "detectable": self.detectable}


def compare(differences: NDArray[np.float64]) -> CrossedDifference:
    """Return what differences of verdicts say.

    Args:
        differences: (S, N), the verdicts of one network less those of the other, a row a seed, a column an image.

    Returns:
        The mean difference. Of a single seed it speaks of those two networks, over images alone.
    """
    error, freedom = standard_error(differences)
    interval = crossed_interval(differences)
    if error == 0:
        p = 1.0 if interval.value == 0 else 0.0
    else:
        p = 2 * float(scipy.stats.t.sf(abs(interval.value) / error, freedom))
    return CrossedDifference(
        value=interval.value, low=interval.low, high=interval.high, error=error, freedom=freedom, p=p
    )


def standard_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error of a mean over seeds and images, and its degrees of freedom.

    With MS for the mean squares of seeds, images and what is left, S seeds and N images,
    Var(mean) = (MS_seeds + MS_images - MS_rest) / (S N).

    Args:
        values: (S, N).

    Returns:
        (standard error, degrees of freedom).
    """
    seeds, images = values.shape
    by_image = values.mean(axis=0)
    if seeds == 1:
        return float(by_image.std(ddof=1)) / math.sqrt(images), images - 1.0
    by_seed = values.mean(axis=1)
    rest = values - by_image[None, :] - by_seed[:, None] + values.mean()
    parts = [
        (images * float(by_seed.var(ddof=1)), seeds - 1.0),
        (seeds * float(by_image.var(ddof=1)), images - 1.0),
        (-float((rest**2).sum()) / ((seeds - 1) * (images - 1)), (seeds - 1.0) * (images - 1)),
    ]
    whole = sum(square for square, _ in parts)
    whole = max(whole, *(square for square, _ in parts))  # where the seeds differ by less than chance
    spread = sum(square**2 / free for square, free in parts)
    if spread == 0:
        return 0.0, seeds - 1.0
    return math.sqrt(whole / (seeds * images)), whole**2 / spread


def smallest_shift(freedom: float) -> float:
    """Return how many standard errors from 0 a mean has to lie for Student's t test to find it.

    Args:
        freedom: degrees of freedom of the standard error, above 0.

    Returns:
        The noncentrality at which a two-sided test at LEVEL has the power POWER.
    """
    critical = float(scipy.stats.t.isf(LEVEL / 2, freedom))

    def lacking(shift: float) -> float:
        return float(scipy.stats.nct.sf(critical, freedom, shift)) - POWER

    return float(scipy.optimize.brentq(lacking, 0.0, 3 * critical))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, by Holm's step-down rule.

    Args:
        values: p values.

    Returns:
        As many, in the same order, at most 1.
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected
