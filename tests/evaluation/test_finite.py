"""Bounds for a finite set from a sample of it: exact on small sets, coverage for any set, the binomial's limit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from clat.evaluation.finite import count_interval, most_in_set, sample_needed


@pytest.mark.parametrize("population", [1, 6, 50])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_coverage_whatever_the_set(population: int, confidence: float) -> None:
    """Summed over everything that a sample may show, for every number in the set."""
    for sample in {0, 1, population // 3, population - 1, population}:
        bounds = np.array([most_in_set(population, sample, seen, confidence) for seen in range(sample + 1)])
        for truth in range(population + 1):
            seen = np.arange(sample + 1)
            covered = hypergeom.pmf(seen, population, truth, sample)[bounds >= truth].sum()
            assert covered >= confidence - 1e-9, (sample, truth)


def test_by_counting_samples() -> None:
    """Of 6, 3 were looked at and none has the property: 5 % would not happen with 4, 4 of 20 samples with 2."""
    none_of = [
        sum(not set(chosen) & set(range(truth)) for chosen in combinations(range(6), 3)) for truth in range(7)
    ]
    assert none_of == [20, 10, 4, 1, 0, 0, 0]
    assert most_in_set(6, 3, 0, confidence=0.85) == 2
    assert most_in_set(6, 3, 0, confidence=0.75) == 1
    assert most_in_set(6, 3, 0, confidence=0.95) == 2, "1 of 20 is no more than 5 %"


@pytest.mark.parametrize(("sample", "seen"), [(10, 0), (50, 3), (90, 0), (90, 90)])
def test_no_wider_than_clopper_and_pearson_and_the_same_in_a_large_set(sample: int, seen: int) -> None:
    binomial = binomtest(seen, sample, alternative="less").proportion_ci(0.95, method="exact").high
    assert most_in_set(100, sample, seen) <= 100 * binomial + 1
    assert most_in_set(100_000, sample, seen) / 100_000 == pytest.approx(binomial, abs=0.01)


def test_the_whole_set_leaves_nothing_open() -> None:
    assert most_in_set(40, 40, 3) == 3
    assert most_in_set(40, 0, 0) == 40
    assert count_interval(40, 40, 3) == (3, 3)
    assert most_in_set(0, 0, 0) == 0


@pytest.mark.parametrize("population", [0, 1, 12, 300, 484])
@pytest.mark.parametrize("allowed", [0, 1, 10])
def test_the_sample_needed_is_the_smallest(population: int, allowed: int) -> None:
    needed = sample_needed(population, allowed)
    assert most_in_set(population, needed, 0) <= allowed
    assert needed == 0 or most_in_set(population, needed - 1, 0) > allowed
    assert needed <= population


@pytest.mark.parametrize("truth", [0, 7, 100, 193, 200])
def test_both_sides(truth: int) -> None:
    seen = np.arange(41)
    bounds = np.array([count_interval(200, 40, int(one)) for one in seen])
    covers = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
    assert hypergeom.pmf(seen, 200, truth, 40)[covers].sum() >= 0.95 - 1e-9
    assert ((bounds[:, 0] <= 5 * seen) & (5 * seen <= bounds[:, 1])).all()
