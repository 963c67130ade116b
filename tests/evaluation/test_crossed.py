"""Intervals over seeds and images: closed forms, the two sources of spread, and how often they hold the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from clat.evaluation.crossed import accuracy_interval, crossed_interval, standard_error
from clat.evaluation.statistics import Accuracy, PairedDifference
from clat.studies.evidence.comparison import compare


def test_of_one_seed_an_accuracy_has_the_interval_of_a_share():
    verdicts = np.zeros((1, 400))
    verdicts[0, :100] = 1
    found = accuracy_interval(verdicts)
    assert found.value == 0.25
    assert (found.low, found.high) == Accuracy(100, 400).interval
    assert (found.to_dict()["over"], found.method) == ("images", "wilson")


def test_an_accuracy_of_nothing_is_not_certain():
    found = accuracy_interval(np.zeros((3, 32)))
    assert (found.value, found.low) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert found.high == pytest.approx(0.107, abs=0.001)
    assert found.to_dict()["over"] == "images"


def test_an_accuracy_stays_within_its_range():
    verdicts = np.array([[1.0, 1, 1, 0], [0, 0, 0, 0]])
    found = accuracy_interval(verdicts)
    assert (found.low, found.high) == (0.0, 1.0)
    assert crossed_interval(-verdicts).low == -1.0


def test_where_only_the_seeds_matter_it_is_the_t_interval_of_their_means():
    values = np.random.default_rng(0).normal(0, 0.1, 3)
    found = crossed_interval(np.repeat(values[:, None], 50, axis=1))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.to_dict()["over"] == "seeds and images"


def test_of_one_seed_it_is_the_t_interval_over_images():
    values = np.random.default_rng(3).normal(0, 0.3, (1, 40))
    expected = stats.ttest_1samp(values[0], 0).confidence_interval()
    found = crossed_interval(values)
    assert (found.low, found.high) == pytest.approx(expected)


def test_seeds_whose_differences_cancel_are_not_certain():
    """Neither seeds nor images differ in the mean; all of it is what is left."""
    values = np.zeros((2, 100))
    values[:, :2] = [[1, -1], [-1, 1]]
    found = compare(values)
    assert found.low < 0 < found.high
    assert found.error == pytest.approx(np.sqrt(np.sum(values**2) / 99 / 200))
    assert np.isfinite(list(found.to_dict().values())).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_that_are_all_the_same_are_no_more_certain_than_their_images(value, seeds):
    found = crossed_interval(np.full((seeds, 50), value))
    first, second = torch.full((50,), value < 0), torch.full((50,), value > 0)
    assert (found.low, found.high) == PairedDifference.between(first, second).interval
    assert (found.value, found.to_dict()["over"]) == (value, "images")
    told = compare(np.full((seeds, 50), value))
    assert (told.p < 0.05) == (value != 0)
    assert told.detectable > 0


def test_a_single_verdict_says_nothing():
    found = crossed_interval(np.array([[1.0]]))
    assert found.value == 1.0
    assert found.low < 0


@pytest.mark.parametrize(("shift", "sign"), [(0.4, 1), (-0.4, -1), (0.0, 0)])
def test_the_sign_is_that_of_an_interval_clear_of_zero(shift, sign):
    noise = np.random.default_rng(1).normal(0, 1, (3, 300))
    assert crossed_interval(noise - noise.mean() + shift).sign == sign


@pytest.mark.parametrize("seed", range(8))
def test_it_is_clear_of_zero_where_the_test_finds_a_difference(seed):
    random = np.random.default_rng(seed)
    values = 0.1 * random.normal(size=(3, 1)) + random.normal(size=(3, 300)) * 0.5 + 0.15
    assert (crossed_interval(values).sign != 0) == (compare(values).p < 0.05)


@pytest.mark.parametrize("seeds", [2, 3])
def test_it_holds_the_mean_about_as_often_as_it_says(seeds):
    """Verdicts of two networks a seed, whose accuracies differ from seed to seed by 2 points, without an effect."""
    random, held, times = np.random.default_rng(seeds), 0, 300
    for _ in range(times):
        image = random.normal(0, 1, (1, 500))
        one, other = (
            (random.normal(0, 0.08, (seeds, 1)) + image + random.normal(0, 1, (seeds, 500)) > 0).astype(float)
            for _ in range(2)
        )
        found = crossed_interval(one - other)
        held += found.low <= 0 <= found.high
    assert held / times >= 0.92


def test_a_handful_of_images_in_all_seeds_settles_nothing():
    """Of few images it is no narrower than the intervals over images alone."""
    verdicts = np.zeros((3, 1000))
    wide = accuracy_interval(verdicts).high
    for right in (1, 3, 9):
        verdicts[:, :right] = 1
        found = accuracy_interval(verdicts)
        assert found.high >= Accuracy(right, 1000).interval[1] > wide
        assert accuracy_interval(1 - verdicts).low == pytest.approx(1 - found.high)
    gained = np.zeros((3, 1000))
    signs = []
    for several in (4, 5, 6):
        gained[:, :several] = 1
        signs.append(crossed_interval(gained).sign)
    assert signs == [0, 0, 1], "as McNemar's exact test has it"


def test_where_all_images_say_the_same_only_the_seeds_count():
    values = np.repeat([[0.1], [0.3], [0.2]], 40, axis=1)
    error, freedom = standard_error(values)
    assert error == pytest.approx(np.std([0.1, 0.3, 0.2], ddof=1) / np.sqrt(3))
    assert freedom == pytest.approx(2)


def test_where_all_seeds_say_the_same_only_the_images_count():
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 60)), 4, axis=0)
    error, freedom = standard_error(values)
    assert error == pytest.approx(values[0].std(ddof=1) / np.sqrt(60))
    assert freedom == pytest.approx(59)


def test_the_standard_error_is_that_of_drawing_seeds_and_images_anew():
    random = np.random.default_rng(2)
    seeds, images = 4, 80

    def draw():
        by_seed, by_image = 0.5 * random.normal(size=(seeds, 1)), random.normal(size=(1, images))
        return by_seed + by_image + random.normal(size=(seeds, images))

    drawn = [draw() for _ in range(2000)]
    spread = np.std([one.mean() for one in drawn])
    told = np.sqrt(np.mean([standard_error(one)[0] ** 2 for one in drawn]))
    assert told == pytest.approx(spread, rel=0.05)
