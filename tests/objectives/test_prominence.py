"""Eq. 6 by hand, and masks with exactly the count that was asked for."""

from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.objectives.cure.prominence import least_prominent, maskable, prominence


def test_prominence_is_the_weighted_sum_of_absolute_gradients():
    natural, adversarial = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([-4.0, 0.5, 3.0])
    values = prominence(natural, adversarial, 0.25)
    assert values.tolist() == [0.25 * 1 + 0.75 * 4, 0.25 * 2 + 0.75 * 0.5, 0.75 * 3]
    assert torch.equal(prominence(natural, adversarial, 1.0), natural.abs())
    assert torch.equal(prominence(natural, adversarial, 0.0), adversarial.abs())


@pytest.mark.parametrize(
    ("percent", "count"), [(0, 0), (0.4, 0), (10, 4), (30, 11), (50, 18), (99.9, 36), (100, 36)]
)
def test_the_smallest_are_masked_and_no_more_of_them(percent, count):
    values = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = least_prominent(values, percent)
    assert mask.shape == values.shape
    assert mask.sum() == count
    if 0 < count < 36:
        assert values[mask].max() < values[~mask].min()


@pytest.mark.parametrize("percent", [20, 40, 60, 80])
def test_of_equal_values_the_first_are_masked(percent):
    values = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    expected = {20: {1, 4}, 40: {1, 4, 0, 2}, 60: {1, 4, 0, 2, 3, 5}, 80: {1, 4, 0, 2, 3, 5, 6, 8}}
    assert set(least_prominent(values, percent).nonzero().flatten().tolist()) == expected[percent]
    assert least_prominent(torch.zeros(10), percent).tolist() == [i < percent / 10 for i in range(10)]


def test_the_memory_layout_decides_nothing():
    values = torch.randint(0, 3, (4, 3, 3, 3), generator=torch.Generator().manual_seed(1)).float()
    other = values.contiguous(memory_format=torch.channels_last)
    assert torch.equal(least_prominent(values, 40), least_prominent(other, 40))


def test_the_groups(tiny_resnet):
    model = tiny_resnet()
    moving = dict(model.named_parameters())
    convolutions = {name for name, value in moving.items() if value.dim() == 4}
    assert "layer2.0.shortcut.0.weight" in convolutions
    assert set(maskable(model, moving, "convolutions")) == convolutions
    assert set(maskable(model, moving, "all-but-linear")) == set(moving) - {"linear.weight", "linear.bias"}
    assert set(maskable(model, moving, "all")) == set(moving)
    assert set(maskable(model, moving, ("layer1*conv1.weight",))) == {
        "layer1.0.conv1.weight",
        "layer1.1.conv1.weight",
    }


def test_only_what_moves_is_masked(tiny_resnet):
    model = tiny_resnet()
    moving = {"conv1.weight": model.conv1.weight, "linear.weight": model.linear.weight}
    assert maskable(model, moving, "convolutions") == {"conv1.weight": model.conv1.weight}
    with pytest.raises(ClatError, match="nothing moves"):
        maskable(model, {"linear.weight": model.linear.weight}, "convolutions")


def test_unknown_choices_are_refused(tiny_resnet):
    model = tiny_resnet()
    moving = dict(model.named_parameters())
    with pytest.raises(ClatError, match="did you mean 'convolutions'"):
        maskable(model, moving, "convolution")
    with pytest.raises(ClatError, match=r"layer9\.\*"):
        maskable(model, moving, ("layer9.*",))
