"""The learning-rate automaton on scripted histories."""

from __future__ import annotations

import pytest

from clat.objectives.autolora.rate import Rate, after_epoch, published_checkpoints


def factors(history, checkpoints):
    """The factor after each epoch."""
    rate, found = Rate(), []
    for epoch, accuracy in enumerate(history):
        rate = after_epoch(rate, accuracy, checkpoint=epoch in checkpoints)
        found.append(rate.factor)
    return found


def test_steady_rise_keeps_the_rate():
    assert factors([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], {4, 8}) == [1.0] * 9


def test_three_of_four_rises_suffice_and_two_do_not():
    assert factors([0.1, 0.2, 0.3, 0.2, 0.4], {4})[-1] == 1.0
    assert factors([0.1, 0.2, 0.1, 0.1, 0.2], {4})[-1] == 0.5


def test_a_rise_is_over_the_epoch_before_and_not_over_the_best():
    assert factors([0.9, 0.1, 0.2, 0.3, 0.4], {4})[-1] == 1.0


def test_epochs_between_checkpoints_change_nothing():
    assert factors([0.5, 0.4, 0.3, 0.2, 0.1, 0.1], {4}) == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_each_checkpoint_counts_from_the_last():
    """Four falls, halved; four rises to below the best: not halved again, since the rate was halved last time; four
    more, still below: halved by the second rule; and then neither."""
    falls, rises = [0.9, 0.8, 0.7, 0.6, 0.5], [0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 0.58]
    again = [0.6, 0.7, 0.8, 0.85, 0.86, 0.87, 0.88, 0.895]
    found = factors([*falls, *rises, *again], {4, 8, 12, 16, 20})
    assert [found[mark] for mark in (4, 8, 12, 16, 20)] == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_new_best_keeps_the_rate_at_the_second_rule():
    found = factors([0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.45, 0.5, 0.55], {4, 8})
    assert found[-1] == 1.0


def test_the_second_rule_does_not_hold_at_the_first_checkpoint():
    """The best stays the first epoch's, but three of four epochs rise."""
    assert factors([0.9, 0.1, 0.2, 0.3, 0.4], {4})[-1] == 1.0
    assert factors([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], {4, 8})[-1] == 0.5


def test_the_state_is_plain_numbers():
    rate = after_epoch(after_epoch(Rate(), 0.5, checkpoint=False), 0.6, checkpoint=True)
    assert rate == Rate(factor=1.0, best=0.6, best_before=0.6, last=0.6, rises=0, compared=0, halved=0.0)
    assert all(isinstance(value, int | float) for value in rate)


@pytest.mark.parametrize(
    ("epochs", "marks"),
    [
        (50, (16, 24, 28, 36, 40, 42, 44, 46, 48)),
        (25, (8, 12, 14, 18, 20, 21, 22, 23)),
        (100, (32, 48, 56, 72, 80, 84, 88, 92, 96)),
        (2, ()),
        (1, ()),
    ],
)
def test_published_checkpoints_stretch_to_the_stage(epochs, marks):
    assert published_checkpoints(epochs) == marks
