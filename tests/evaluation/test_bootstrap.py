"""Intervals over seeds and images: closed forms, and the two sources of spread."""

from __future__ import annotations

import numpy as np
import pytest

from clat.evaluation.bootstrap import crossed_interval


def test_of_one_seed_the_interval_is_that_of_a_share():
    verdicts = np.zeros((1, 400))
    verdicts[0, :100] = 1
    found = crossed_interval(verdicts)
    assert found.value == 0.25
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.1)
    assert found.to_dict()["over"] == "images"


def test_seeds_that_differ_widen_it_as_the_variance_of_their_mean_says():
    """Every image alike, so that only the seeds matter: the deviation of the mean of S seeds is s / sqrt(S)."""
    values = np.random.default_rng(0).normal(0, 1, 12)
    found = crossed_interval(np.repeat(values[:, None], 50, axis=1))
    expected = values.std(ddof=1) / np.sqrt(12)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.08)
    assert found.to_dict()["over"] == "seeds and images"


@pytest.mark.parametrize(("shift", "sign"), [(0.4, 1), (-0.4, -1), (0.0, 0)])
def test_the_sign_is_that_of_an_interval_clear_of_zero(shift, sign):
    noise = np.random.default_rng(1).normal(0, 1, (3, 300))
    assert crossed_interval(noise - noise.mean() + shift).sign == sign


def test_the_same_verdicts_give_the_same_interval():
    verdicts = (np.random.default_rng(2).random((3, 50)) < 0.5).astype(float)
    assert crossed_interval(verdicts) == crossed_interval(verdicts)
