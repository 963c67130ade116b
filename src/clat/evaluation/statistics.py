"""Statistics of accuracies: how sure one is, and a difference between two."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import scipy  # whose parts are loaded where they are used, stats in a second
from torch import Tensor

from clat.core.errors import ClatError


@dataclass(frozen=True)
class Accuracy:
    """A share of correct samples with its Wilson interval.

    Attributes:
        correct: how many samples are.
        n: of how many, at least 1.
        confidence: of the interval.

    Raises:
        ClatError: there is no sample, or more are correct than there are.
    """

    correct: int
    n: int
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ClatError(
                f"{self.correct} correct of {self.n} samples: expected at least one sample, and as many correct at "
                "most"
            )

    @property
    def value(self) -> float:
        """Return the share, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Return the Wilson score interval, which stays within [0, 1] and is honest near both ends."""
        low, high = scipy.stats.binomtest(self.correct, self.n).proportion_ci(self.confidence, method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The value, the counts, and the interval with its method.
        """
        low, high = self.interval
        return {"value": self.value, **asdict(self), "low": low, "high": high, "method": "wilson"}

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] (n = {self.n})"


def nrr(natural: float, robust: float) -> float:
    """Return the harmonic mean of the clean and the robust accuracy: NRR of CURE (Gowda et al. 2024).

    NRR = 2 * Nat * Rob / (Nat + Rob).

    Args:
        natural: the clean accuracy, as a share or in percent.
        robust: the robust one, in the same unit.

    Returns:
        NRR in that unit; 0 where both are 0.
    """
    return 2 * natural * robust / (natural + robust) if natural + robust > 0 else 0.0


@dataclass(frozen=True)
class PairedDifference:
    """Two networks, or two attacks, on the same samples: the second's accuracy less the first's.

    The samples on which both agree say nothing about the difference.

    Attributes:
        first_only: how many samples only the first gets right.
        second_only: how many only the second does.
        n: all samples.
        confidence: of the interval.
    """

    first_only: int
    second_only: int
    n: int
    confidence: float = 0.95

    @classmethod
    def between(cls, first: Tensor, second: Tensor, confidence: float = 0.95) -> PairedDifference:
        """Return the difference of two lists of verdicts.

        Args:
            first: which samples the first gets right, (N,) bool.
            second: which the second does, (N,) bool.
            confidence: of the interval.

        Returns:
            The difference, with what it takes to judge it.
        """
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), len(first), confidence)

    @property
    def value(self) -> float:
        """Return the difference, in [-1, 1]."""
        return (self.second_only - self.first_only) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Return the adjusted Wald interval for paired proportions (Bonett and Price 2012).

        One sample is added to each kind of disagreement, so that it keeps its coverage down to small n and has a
        width where the two never disagree.
        """
        n = self.n + 2
        first, second = (self.first_only + 1) / n, (self.second_only + 1) / n
        centre = second - first
        half = float(scipy.stats.norm.ppf(0.5 + self.confidence / 2)) * math.sqrt((first + second - centre**2) / n)
        return max(centre - half, -1.0), min(centre + half, 1.0)

    @property
    def p_value(self) -> float:
        """Return the p value of the exact McNemar test, two-sided.

        It says how likely so uneven a split of the disagreements is by chance.
        """
        disagreements = self.first_only + self.second_only
        return float(scipy.stats.binomtest(self.first_only, disagreements).pvalue) if disagreements else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The value, the counts, interval and p value with their methods.
        """
        low, high = self.interval
        methods = {"interval_method": "bonett-price", "p_method": "mcnemar-exact"}
        return {"value": self.value, **asdict(self), "low": low, "high": high, "p_value": self.p_value, **methods}


@dataclass(frozen=True)
class SeedSummary:
    """One accuracy of networks that differ in their seed alone.

    Attributes:
        values: the accuracy of each, in [0, 1].
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation from one seed to the next (n - 1); None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def lowest(self) -> float:
        """Return the lowest accuracy, which the CLAT paper reports ("lowest of 10 runs").

        It falls with every seed that is added.
        """
        return min(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Mean, deviation, lowest, and the values that they come from.
        """
        n = len(self.values)
        lowest = {f"lowest of {n}": self.lowest}
        return {"mean": self.mean, "deviation": self.deviation, **lowest, "n": n, "values": list(self.values)}

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.1%}"
        return f"{self.mean:.1%}{spread}, lowest of {len(self.values)}: {self.lowest:.1%}"


class _TTest:
    """A mean difference that a t test judges.

    Interval and p value are None where `_test` is, since there is no spread to judge by.
    """

    confidence: float

    def _test(self) -> Any:
        """Return scipy's result, or None."""
        raise NotImplementedError

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the test's interval of the difference; None where there is no spread."""
        test = self._test()
        if test is None:
            return None
        low, high = test.confidence_interval(self.confidence)
        return float(low), float(high)

    @property
    def p_value(self) -> float | None:
        """Return the test's two-sided p value; None where there is no spread."""
        test = self._test()
        return None if test is None else float(test.pvalue)


@dataclass(frozen=True)
class SeedDifference(_TTest):
    """The second summary's mean less the first's, by Welch's t test, which does not ask for equal deviations.

    Attributes:
        first: one accuracy over the seeds.
        second: the same of another method.
        confidence: of the interval.
    """

    first: SeedSummary
    second: SeedSummary
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """Return the difference of the means, in [-1, 1]."""
        return self.second.mean - self.first.mean

    def _test(self) -> Any:
        """Return Welch's test, or None where either side is a single seed or neither varies."""
        if not all(one.deviation is not None for one in (self.first, self.second)):
            return None
        if not any(one.deviation for one in (self.first, self.second)):
            return None
        return scipy.stats.ttest_ind(self.second.values, self.first.values, equal_var=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The value, interval and p value; None for what is not known.
        """
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high, "p_value": self.p_value, "method": "welch-t"}


_ROUNDING = 1e-9
"""Differences of accuracies that are equal may differ by so much."""


@dataclass(frozen=True)
class PairedSeeds(_TTest):
    """Differences of one accuracy between two methods, one a seed, by a t test on the differences.

    A seed means the same to both: the same data order, and the same network to start from.

    Attributes:
        values: the differences, in [-1, 1].
        confidence: of the interval.
    """

    values: tuple[float, ...]
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """Return the mean difference, in [-1, 1]."""
        return statistics.fmean(self.values)

    def _test(self) -> Any:
        """Return the test, or None for a single seed, or where the seeds do not differ but for rounding."""
        if len(self.values) < 2 or max(self.values) - min(self.values) < _ROUNDING:
            return None
        return scipy.stats.ttest_1samp(self.values, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The value, interval and p value, None for what is not known, and the differences.
        """
        low, high = self.interval or (None, None)
        numbers = {"value": self.value, "low": low, "high": high, "p_value": self.p_value}
        return {**numbers, "values": list(self.values), "method": "paired-t"}
