"""A form against a control: the difference over seeds and images, how sure it is, and what could have been seen.

Standard error, degrees of freedom and interval are those of `clat.evaluation.crossed`; several tests at once are
corrected as Holm (1979) has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts are loaded where they are used
from numpy.typing import NDArray

from clat.evaluation.crossed import CONFIDENCE, crossed_interval, standard_error

LEVEL, POWER = 1 - CONFIDENCE, 0.8
"""Of a two-sided test, and the probability with which it is to find what is there."""
TAIL = LEVEL / 4
"""Of the one-sided bound of each accuracy: that one of the two errs has twice this probability at most, one in
forty."""


@dataclass(frozen=True, kw_only=True)
class CrossedDifference:
    """One accuracy less another, seed by seed and image by image; all in [-1, 1] but p."""

    value: float
    low: float
    high: float
    """Above it the true difference does not lie, with a confidence of 1 - LEVEL / 2; as for `low`."""
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
    def bound(self) -> float:
        """Return what the true difference does not lie above, with a confidence of 1 - TAIL; `high` is lower."""
        upper, further = (float(scipy.stats.t.isf(tail, self.freedom)) for tail in (LEVEL / 2, TAIL))
        return min(self.high + (further - upper) * self.error, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data.

        Returns:
            The fields, the bound that decides, and the smallest difference that could have been seen.
        """
        return {**vars(self), "bound": self.bound, "detectable": self.detectable}


def compare(differences: NDArray[np.float64]) -> CrossedDifference:
    """Return what differences of verdicts say.

    Args:
        differences: (S, N), the verdicts of one network less those of the other, a row a seed, a column an image.

    Returns:
        The mean difference. Of a single seed it speaks of those two networks, over images alone.
    """
    error, freedom = standard_error(differences)
    interval = crossed_interval(differences)
    if error == 0:  # all the same: what the interval says stands in for it
        error = (interval.high - interval.low) / 2 / float(scipy.stats.t.isf(LEVEL / 2, freedom))
    p = 2 * float(scipy.stats.t.sf(abs(interval.value) / error, freedom))
    return CrossedDifference(
        value=interval.value, low=interval.low, high=interval.high, error=error, freedom=freedom, p=p
    )


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
