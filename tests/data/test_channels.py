"""Grey images: as PIL makes them, lazy or not, and only where that is possible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clat.core.errors import ClatError
from clat.data import ImageSet, Loader, load_split
from clat.data.channels import with_channels


def test_grey_is_pil_s_brightness() -> None:
    pixels = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet("noise", "train", ("a", "b"), pixels, torch.tensor([0, 1]))
    grey = with_channels(images, 1)
    assert grey.shape == (1, 9, 7)
    for made, colour in zip(grey.images, pixels, strict=True):
        expected = np.asarray(Image.fromarray(colour.permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(made[0].numpy(), expected)


def test_grey_images_stay_what_they_are_both_ways() -> None:
    digits = load_split("digits", "test")
    grey = with_channels(digits, 1)
    assert torch.equal(grey.images[:, 0], digits.images[:, 1])
    assert torch.equal(with_channels(grey, 3).images, digits.images)
    assert with_channels(digits, None) is digits
    assert with_channels(digits, 3) is digits


def test_images_in_files_become_grey_when_they_are_read(tmp_path) -> None:
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(3):
                noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "set" / split / name / f"{number}.png")
    lazy = load_split(tmp_path / "set", "train", resident_limit=0, cache=False)
    grey = with_channels(lazy, 1)
    assert grey.shape == (1, 6, 6)
    expected = with_channels(lazy.load(), 1).images
    assert torch.equal(grey.load().images, expected)
    assert torch.equal(grey.subset([4, 1]).load().images, expected[[4, 1]])
    x, _ = next(iter(Loader(grey, 6).epoch()))
    assert x.shape == (6, 1, 6, 6)


def test_other_channels_are_refused() -> None:
    images = ImageSet("four", "train", ("a",), torch.zeros(1, 4, 2, 2, dtype=torch.uint8), torch.tensor([0]))
    with pytest.raises(ClatError, match="have 4 channels"):
        with_channels(images, 1)
    with pytest.raises(ClatError, match="no way to make them 2"):
        with_channels(with_channels(load_split("digits", "test"), 1), 2)
