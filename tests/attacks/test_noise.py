"""Random numbers by sample: uniform, normal, and the same wherever a sample is."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from clat.attacks.noise import normal, uniform

MASK = 2**64 - 1


def mixed(z: int) -> int:
    """The finaliser of SplitMix64 on unsigned numbers, as published."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix64_as_published() -> None:
    """Seeded with 1234567 it begins so in the reference implementation, whatever language."""
    gamma, state, drawn = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + gamma) & MASK
        drawn.append(mixed(state))
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_the_same_bits_as_plain_integers(seed: int) -> None:
    gamma = 0x9E3779B97F4A7C15
    ids, place = [0, 5, 2**40], 3
    found = uniform(seed, torch.tensor(ids), place, 4)
    for row, number in enumerate(ids):
        root = mixed((mixed((mixed(seed) + number * gamma) & MASK) + place * gamma) & MASK)
        for column in range(4):
            bits = mixed((root + (column + 1) * gamma) & MASK)
            assert found[row, column].item() == (bits >> 40) / 2**24


def test_golden() -> None:
    """A change here changes every random start that is on record."""
    assert (uniform(0, torch.tensor([0, 7]), 0, 3) * 2**24).long().tolist() == [
        [14819496, 7239838, 443485], [8583774, 4685615, 7082967],
    ]  # fmt: skip
    assert normal(3, torch.tensor([1]), 2, 2)[0].tolist() == pytest.approx([-0.1461512, 0.4059878], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "sample"),
    [
        ("one sample's elements", lambda n: uniform(0, torch.tensor([4]), 0, n)[0]),
        ("one element of many samples", lambda n: uniform(0, torch.arange(n), 0, 1)[:, 0]),
        ("one element at many places", lambda n: uniform(0, torch.zeros(n).long(), torch.arange(n), 1)[:, 0]),
        (
            "one element for many seeds",
            lambda n: torch.cat([uniform(s, torch.tensor([4]), 0, 1)[0] for s in range(n)]),
        ),
    ],
)
def test_uniform_in_every_direction(shape: str, sample) -> None:
    u = sample(5000)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-3, shape
    neighbours = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(5000)


def test_normal_moments_and_distribution() -> None:
    z = normal(0, torch.arange(200), 1, 500).double().flatten()
    n = len(z)
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3


def test_a_normal_number_is_finite_at_the_ends_of_the_uniform_one() -> None:
    """Sample 9281822 draws the largest uniform number there is, sample 2094318 the smallest."""
    ids = torch.tensor([9281822, 2094318])
    assert uniform(0, ids, 0, 1)[:, 0].tolist() == [1 - 2**-24, 0]
    largest, smallest = normal(0, ids, 0, 1)[:, 0].tolist()
    assert largest == -smallest
    assert largest == pytest.approx(stats.norm.ppf(1 - 2**-25), rel=1e-3)


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_samples_numbers_are_its_own(draw) -> None:
    ids = torch.tensor([3, 9, 0, 12])
    together = draw(5, ids, 2, 7)
    for row, number in enumerate(ids):
        assert torch.equal(draw(5, number[None], 2, 7)[0], together[row])
    assert torch.equal(draw(5, ids.flip(0), 2, 7), together.flip(0))
    assert torch.equal(draw(5, ids, 2, 3), together[:, :3])
    places = torch.tensor([2, 0, 2, 1])
    mixed_places = draw(5, ids, places, 7)
    assert torch.equal(mixed_places[places == 2], together[places == 2])
    assert not torch.isclose(mixed_places[places != 2], together[places != 2]).any()


def test_seed_sample_and_place_each_matter() -> None:
    def row(seed: int, number: int, place: int) -> Tensor:
        return uniform(seed, torch.tensor([number]), place, 50)[0]

    rows = torch.stack([row(s, i, p) for s in range(3) for i in range(3) for p in range(3)])
    assert len(rows.flatten().unique()) == rows.numel()
    assert (torch.corrcoef(rows) - torch.eye(27)).abs().max() < 0.6


def test_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    normal(0, torch.arange(3), 0, 5)
    assert torch.equal(torch.get_rng_state(), before)
