"""Random resized crop: the whole image is itself, its mirror too, and parts stay within their ranges."""

from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.data.resized_crop import ResizedCrop


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_whole_image_is_itself_and_its_mirror_is_mirrored(pixels):
    crop = ResizedCrop()
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]]).expand(3, 5)
    assert torch.equal(crop(pixels, whole), pixels)
    mirrored = whole.clone()
    mirrored[:, 4] = 1
    assert torch.equal(crop(pixels, mirrored), pixels.flip(-1))


def test_a_quarter_is_enlarged_from_its_place():
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[:, :, 4:, 4:] = 200
    quarter = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.0]])
    found = ResizedCrop()(image, quarter)
    assert (found[:, :, 1:, 1:] == 200).all()


def test_parts_are_within_their_ranges_and_follow_from_the_generator():
    crop = ResizedCrop(smallest=0.25)
    params = crop.draw(500, torch.Generator().manual_seed(1))
    width, height, left, top, mirrored = params.unbind(1)
    assert (width * height).min() > 0.24
    assert ((left >= 0) & (left + width <= 1 + 1e-6) & (top >= 0) & (top + height <= 1 + 1e-6)).all()
    assert 0.4 < mirrored.mean() < 0.6
    assert torch.equal(params, crop.draw(500, torch.Generator().manual_seed(1)))
    assert ResizedCrop(flip=False).draw(50, torch.Generator().manual_seed(1))[:, 4].sum() == 0


@pytest.mark.parametrize("wrong", [{"smallest": 0.0}, {"smallest": 1.5}, {"aspect": 0.5}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ClatError, match=r"^augment (smallest|aspect) is"):
        ResizedCrop(**wrong)
