"""The one cross-entropy of the objectives: class numbers, probabilities, smoothed or not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clat.network.layers import enumerate_layers
from clat.objectives import Clat, FastAT, PgdAT, Standard, Step, Trades
from clat.objectives.base import cross_entropy
from clat.objectives.clat import Calibration, ClatCallback

LOGITS = torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, math.log(6.0), 0.0]])
"""Probabilities (1/2, 1/4, 1/4) and (1/8, 3/4, 1/8)."""


def test_class_numbers_by_hand():
    expected = (math.log(2) + math.log(8)) / 2
    assert cross_entropy(LOGITS, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_probabilities_by_hand():
    y = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    expected = (0.25 * math.log(2) + 0.75 * math.log(4) + math.log(8)) / 2
    assert cross_entropy(LOGITS, y).item() == pytest.approx(expected)
    assert cross_entropy(LOGITS.bfloat16(), y.double()).dtype == torch.float32


def test_label_smoothing_by_hand():
    """0.7 of the label and 0.1 on each of the three classes."""
    first = 0.8 * math.log(2) + 0.2 * math.log(4)
    second = 0.1 * math.log(8) + 0.1 * math.log(4 / 3) + 0.8 * math.log(8)
    for y in (torch.tensor([0, 2]), F.one_hot(torch.tensor([0, 2]), 3).float()):
        assert cross_entropy(LOGITS, y, 0.3).item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(
    "objective",
    [
        Standard(),
        PgdAT(steps=2),
        FastAT(),
        Trades(steps=2),
        Trades(steps=2, label_smoothing=0.1),
        Clat(ce_input="pgd"),
    ],
    ids=lambda objective: objective.name,
)
def test_one_hot_probabilities_train_like_class_numbers(build, images, labels, objective):
    """The attack and the loss of each objective, gradients included."""
    one_hot = F.one_hot(labels, 5).float()
    gradients = []
    for y in (labels, one_hot):
        net = build()
        callback = ClatCallback.calibrated(objective, Calibration(0.1)) if isinstance(objective, Clat) else None
        step = Step(layers=tuple(enumerate_layers(net, images)), seed=3, callback=callback)
        objective.loss(net, images, y, step).total.backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_mixed_labels_pull_the_attack_of_pgd_at_both_ways(net, images, labels):
    """A label that is half of each of two classes has the mean loss of the two, and an attack of its own."""
    y = 0.5 * (F.one_hot(labels, 5) + F.one_hot((labels + 1) % 5, 5)).float()
    mean = (cross_entropy(net(images), labels) + cross_entropy(net(images), (labels + 1) % 5)) / 2
    assert Standard().loss(net, images, y, Step()).total.item() == pytest.approx(mean.item(), rel=1e-5)
    mixed, _ = PgdAT(steps=2).loss(net, images, y, Step(seed=1))
    assert mixed.item() > mean.item()
