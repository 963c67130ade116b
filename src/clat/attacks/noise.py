"""Random numbers that belong to a sample and a place, whatever batch the sample is in.

An evaluation moves samples between batches, stops and resumes, and is split over processes. A stream of random
numbers would give each sample different ones each time; a hash of (seed, sample, place, element) does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The additive constant and the two multipliers of SplitMix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def uniform(seed: int, ids: Tensor, place: Tensor | int, count: int) -> Tensor:
    """Return uniform random numbers that belong to a seed, a sample and a place.

    Args:
        seed: the seed of the evaluation.
        ids: the samples' numbers in the data set, (N,) int64.
        place: what the numbers are for, such as an iteration: one number or (N,) int64.
        count: numbers a sample.

    Returns:
        Numbers in [0, 1), (N, count) float32.
    """
    place = torch.as_tensor(place, dtype=torch.int64, device=ids.device)
    root = _mix(_mix(_mix(torch.full_like(ids, seed)) + ids * _GAMMA) + place * _GAMMA)
    counter = torch.arange(1, count + 1, device=ids.device) * _GAMMA
    bits = _mix(root[:, None] + counter)
    # The upper 24 bits: as many as float32 holds exactly, so that no number is rounded up to 1.
    return _shifted(bits, 40).to(torch.float32) * 2.0**-24


def normal(seed: int, ids: Tensor, place: Tensor | int, count: int) -> Tensor:
    """Return standard normal random numbers that belong to a seed, a sample and a place, by inversion.

    Args:
        seed: the seed of the evaluation.
        ids: the samples' numbers in the data set, (N,) int64.
        place: what the numbers are for, such as an iteration: one number or (N,) int64.
        count: numbers a sample.

    Returns:
        Numbers, (N, count) float32.
    """
    # The middles of the intervals that uniform's numbers begin: exact in float32, symmetric, and never 1 or -1.
    middle = 2 * uniform(seed, ids, place, count) - 1 + 2.0**-24
    return torch.erfinv(middle) * math.sqrt(2)


def ball_noise(
    seed: int, ids: Tensor, place: Tensor | int, count: int, norm: str, radius: Tensor | float = 1.0
) -> Tensor:
    """Return uniform points of a ball around 0 that belong to a seed, a sample and a place.

    Args:
        seed: the seed of the evaluation.
        ids: the samples' numbers in the data set, (N,) int64.
        place: what the points are for, one number or (N,) int64; in l2 `place` + 1 is taken too.
        count: elements of a point.
        norm: "linf" or "l2".
        radius: the radius of the ball, one number or (N, 1).

    Returns:
        Points, (N, count) float32.
    """
    if norm == "linf":
        return (2 * uniform(seed, ids, place, count) - 1) * radius
    direction = normal(seed, ids, place, count)
    length = radius * uniform(seed, ids, place + 1, 1) ** (1 / count)
    return direction / direction.norm(dim=1, keepdim=True) * length


def _mix(z: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64; int64 products wrap around as its unsigned ones do."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros; on int64 the operator's own shift is arithmetic."""
    return (z >> by) & (2 ** (64 - by) - 1)
