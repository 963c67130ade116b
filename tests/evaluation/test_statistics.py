from __future__ import annotations

import math

import pytest

from clat.core.errors import ClatError
from clat.evaluation import Accuracy
from clat.evaluation.statistics import nrr

Z = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(correct: int, n: int) -> tuple[float, float]:
    p = correct / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return centre - half, centre + half


@pytest.mark.parametrize(("correct", "n"), [(1, 2), (50, 100), (5544, 10000), (3, 200), (0, 10), (10, 10), (1, 1)])
def test_wilson_interval(correct: int, n: int) -> None:
    accuracy = Accuracy(correct, n)
    assert accuracy.interval == pytest.approx(wilson(correct, n), abs=1e-9)
    low, high = accuracy.interval
    assert 0 <= low <= accuracy.value <= high <= 1
    assert low < high


def test_none_and_all_correct() -> None:
    """At the ends the interval is z^2 / (n + z^2) wide, never a point."""
    assert Accuracy(0, 10).interval == pytest.approx((0, Z * Z / (10 + Z * Z)))
    assert Accuracy(10, 10).interval == pytest.approx((10 / (10 + Z * Z), 1))


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 4), (0, -1)])
def test_counts_that_cannot_be_are_refused(correct: int, n: int) -> None:
    with pytest.raises(ClatError, match=f"{correct} correct of {n} samples: expected at least one sample"):
        Accuracy(correct, n)


def test_as_data_and_text() -> None:
    accuracy = Accuracy(50, 100)
    low, high = wilson(50, 100)
    assert accuracy.to_dict() == {
        "value": 0.5, "correct": 50, "n": 100, "confidence": 0.95,
        "low": pytest.approx(low), "high": pytest.approx(high), "method": "wilson",
    }  # fmt: skip
    assert float(accuracy) == 0.5
    assert str(accuracy) == "50.0% [40.4%, 59.6%] (n = 100)"


def test_confidence_is_used() -> None:
    wide, narrow = Accuracy(50, 100, confidence=0.99).interval, Accuracy(50, 100, confidence=0.5).interval
    assert wide[0] < Accuracy(50, 100).interval[0] < narrow[0] < 0.5


def test_nrr_is_the_harmonic_mean() -> None:
    assert nrr(0.8, 0.4) == pytest.approx(2 / (1 / 0.8 + 1 / 0.4))
    assert nrr(87.05, 55.25) == pytest.approx(67.60, abs=0.005), "CURE, Table 1, in percent"
    assert nrr(0.5, 0.5) == pytest.approx(0.5)
    assert nrr(0.9, 0.0) == nrr(0.0, 0.0) == 0.0
