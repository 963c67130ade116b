"""Bounds of a count in a finite set, from a random sample drawn without replacement.

The construction is Clopper and Pearson's (1934) with the hypergeometric distribution in place of the binomial one:
it has at least its nominal coverage for every set, is never wider, and has no width where the sample is the set.
"""

from __future__ import annotations

import scipy  # whose parts are loaded where they are used, stats in a second


def most_in_set(population: int, sample: int, seen: int, confidence: float = 0.95) -> int:
    """Return an upper bound of how many of a set have a property, one-sided.

    Args:
        population: size of the set.
        sample: how many of it were looked at, drawn at random.
        seen: how many of these have the property.
        confidence: how often, at least, the bound holds.

    Returns:
        The largest number for which `seen` or fewer in the sample are not too unlikely.
    """
    low, high = seen, population - sample + seen
    while low < high:  # the more there are, the less likely it is to see so few
        middle = (low + high + 1) // 2
        # Equal counts as too unlikely, but for rounding.
        if scipy.stats.hypergeom.cdf(seen, population, middle, sample) > (1 - confidence) * (1 + 1e-9):
            low = middle
        else:
            high = middle - 1
    return low


def sample_needed(population: int, allowed: int, confidence: float = 0.95) -> int:
    """Return the smallest sample which, if none of it has the property, bounds it to `allowed` of the set.

    Args:
        population: size of the set.
        allowed: how many of the set may have the property, at most.
        confidence: how often, at least, the bound holds.

    Returns:
        The size of the sample, from 0 to that of the set.
    """
    low, high = 0, population
    while low < high:
        middle = (low + high) // 2
        if most_in_set(population, middle, 0, confidence) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


def count_interval(population: int, sample: int, seen: int, confidence: float = 0.95) -> tuple[int, int]:
    """Return bounds of how many of a set have a property, two-sided.

    Args:
        population: size of the set.
        sample: how many of it were looked at, drawn at random.
        seen: how many of these have the property.
        confidence: how often, at least, both bounds hold.

    Returns:
        The fewest and the most.
    """
    one_sided = (1 + confidence) / 2
    fewest = population - most_in_set(population, sample, sample - seen, one_sided)
    return fewest, most_in_set(population, sample, seen, one_sided)
