"""Every operation against Pillow itself, image by image and bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from clat.data import pil_geometry, pil_ops

from .conftest import from_pil, pictures, to_pil

Transform = Callable[[Image.Image, float], Image.Image]


def assert_same(images: Tensor, got: Tensor, strengths: Tensor, reference: Transform) -> None:
    assert got.dtype == torch.uint8
    for image, mine, strength in zip(images, got, strengths.tolist(), strict=True):
        assert torch.equal(mine, from_pil(reference(to_pil(image), strength))), f"strength {strength}"


def strengths(n: int, low: float, high: float) -> Tensor:
    """Uniform, with both ends, and the 1 at which the colour operations do nothing."""
    generator = torch.Generator().manual_seed(1)
    values = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
    values[:3] = torch.tensor([low, high, 1.0])
    return values


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", ["Color", "Brightness", "Contrast", "Sharpness"])
def test_colour_operations(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    factors = strengths(len(images), 0.0, 1.9)
    got = getattr(pil_ops, f"adjust_{name.lower()}")(images, factors)
    assert_same(images, got, factors, lambda image, factor: getattr(ImageEnhance, name)(image).enhance(factor))
    assert torch.equal(got[2], images[2])


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.37, 1.9])
def test_blending_every_pair_of_levels(factor: float) -> None:
    """Brightness only sees black; this is the truncation of the other three, for all 65,536 pairs."""
    low, high = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    low, high = low.to(torch.uint8), high.to(torch.uint8)
    expected = np.array(Image.blend(Image.fromarray(low.numpy()), Image.fromarray(high.numpy()), factor))
    got = pil_ops._blend(low[None, None], high[None, None], torch.tensor([factor]))
    assert torch.equal(got[0, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("size", [(32, 32), (3, 5), (2, 2), (1, 7)])
def test_sharpness_leaves_the_border(size: tuple[int, int]) -> None:
    images = pictures(5, *size)
    factors = torch.full((5,), 0.1)
    got = pil_ops.adjust_sharpness(images, factors)
    assert_same(images, got, factors, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor))
    assert torch.equal(got[..., 0, :], images[..., 0, :])


@pytest.mark.parametrize("size", [(32, 32), (7, 9), (96, 64)])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_histogram_operations(name: str, size: tuple[int, int]) -> None:
    """The smallest size has too few pixels for `equalize` to do anything, the largest enough for a step of 24."""
    images = pictures(20, *size)
    got = getattr(pil_ops, name)(images)
    assert_same(images, got, torch.zeros(20), lambda image, _: getattr(ImageOps, name)(image))
    assert torch.equal(got[13], images[13]), "one level: left alone"


def test_autocontrast_of_every_range() -> None:
    """The brightest level becomes 254 for some ranges, by Pillow's rounding."""
    low, high = torch.triu_indices(256, 256, 1)[:, ::9]
    levels = torch.arange(256).clamp(low[:, None], high[:, None]).to(torch.uint8).view(-1, 1, 16, 16)
    expected = torch.stack([from_pil(ImageOps.autocontrast(to_pil(image))) for image in levels])
    got = pil_ops.autocontrast(levels)
    assert torch.equal(got, expected)
    assert (got.amax((1, 2, 3)) == 254).any()


@pytest.mark.parametrize("size", [(32, 32), (31, 24)])
def test_rotation_by_every_angle(size: tuple[int, int]) -> None:
    degrees = torch.tensor([angle for angle in range(-30, 31) if angle])
    images = pictures(1, *size).expand(len(degrees), -1, -1, -1)
    got = pil_geometry.rotate(images, degrees)
    assert_same(images, got, degrees, lambda image, angle: image.rotate(angle, Image.Resampling.NEAREST))
    assert not torch.equal(got[0], got[-1])


@pytest.mark.parametrize("size", [(32, 32), (31, 24)])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_shears(axis: str, size: tuple[int, int]) -> None:
    """Against `Image.transform` with the matrix that torchvision's `affine` builds for a shear in degrees."""

    def reference(image: Image.Image, radians: float) -> Image.Image:
        width, height = image.size
        tangent = math.tan(math.radians(math.degrees(radians)))
        if axis == "x":
            matrix = (1.0, tangent, -tangent * height / 2, 0.0, 1.0, 0.0)
        else:
            matrix = (1.0, 0.0, 0.0, tangent, 1.0, -tangent * width / 2)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    images = pictures(40, *size)
    radians = strengths(40, 0.05, 0.35) * torch.tensor([1, -1]).repeat(20)
    radians[2] = 0.05
    got = getattr(pil_geometry, f"shear_{axis}")(images, radians)
    assert_same(images, got, radians, reference)
    assert not torch.equal(got[10], images[10])


def test_the_input_is_not_written_to() -> None:
    images = pictures(5)
    before = images.clone()
    for name in ("adjust_color", "adjust_brightness", "adjust_contrast", "adjust_sharpness"):
        getattr(pil_ops, name)(images, torch.full((5,), 0.3))
    for name in ("rotate", "shear_x"):
        getattr(pil_geometry, name)(images, torch.full((5,), 0.3))
    pil_ops.autocontrast(images)
    pil_ops.equalize(images)
    assert torch.equal(images, before)
