"""The augmentation of ImageNet's shape: Pillow as the oracle of its operations, torchvision of its crop."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from clat.core.errors import ClatError
from clat.core.seeds import generator
from clat.data import ImagenetAugment, ImagenetSettings, PerImage, pil_geometry, pil_ops
from clat.data.rand_augment import OPERATIONS, rand_augment
from clat.data.random_crop import COLUMNS, crop_and_resize, draw_windows
from clat.data.torchvision_ops import TorchvisionTransform, resolve_backend
from helpers.libraries import need

from .conftest import from_pil, pictures, to_pil

WHOLE = ImagenetSettings(area=(1.0, 1.0), ratio=(1.0, 1.0))


def uniform(n: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, columns), generator=generator(seed), dtype=torch.float64)


# The operations are Pillow's, bit for bit


def sheared_x(image: Image.Image, by: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, by, 0, 0, 1, 0))


def sheared_y(image: Image.Image, by: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, by, 1, 0))


def moved(image: Image.Image, by: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -by, 0, 1, 0))


def turned(image: Image.Image, by: float) -> Image.Image:
    """The hue of a PIL image, as torchvision turns it."""
    hue, saturation, value = image.convert("HSV").split()
    levels = np.array(hue, dtype=np.uint8) + np.array(int(by * 255) % 256, dtype=np.uint8)
    return Image.merge("HSV", (Image.fromarray(levels), saturation, value)).convert("RGB")


@pytest.mark.parametrize(
    ("batched", "one", "strengths"),
    [
        (pil_geometry.shear_x_from_corner, sheared_x, (-0.3, -0.09, 0.0, 0.11, 0.3)),
        (pil_geometry.shear_y_from_corner, sheared_y, (-0.3, -0.09, 0.0, 0.11, 0.3)),
        (lambda images, by: pil_geometry.translate(images, by, torch.zeros_like(by)), moved, (-14, -3, 0, 4, 14)),
        (pil_ops.posterize, ImageOps.posterize, (4, 5, 6, 7, 8)),
        (pil_ops.solarize, ImageOps.solarize, (0, 1, 128, 178.5, 255)),
        (pil_ops.adjust_hue, turned, (-0.5, -0.1, 0.0, 0.03, 0.5)),
    ],
)
def test_an_operation_gives_pillow_s_bits(batched: Any, one: Any, strengths: Any) -> None:
    images = pictures(40, 31, 37)
    by = torch.tensor([strengths[k // 8] for k in range(40)], dtype=torch.float64)
    whole = by.tolist() if one is not ImageOps.posterize else [int(value) for value in by.tolist()]
    expected = torch.stack(
        [from_pil(one(to_pil(image), value)) for image, value in zip(images, whole, strict=True)]
    )
    assert torch.equal(batched(images, by), expected)


def test_every_colour_turns_as_pillow_turns_it() -> None:
    levels = torch.arange(0, 256, 5, dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 52)
    for by in (0.0, 0.2, -0.37):
        expected = from_pil(turned(to_pil(colours[0]), by))
        assert torch.equal(pil_ops.adjust_hue(colours, torch.tensor([by]))[0], expected)


# The crop


def test_windows_lie_in_the_image_and_have_the_area_that_is_asked_for() -> None:
    windows = draw_windows(uniform(4000, COLUMNS), 60, 90, (0.08, 1.0), (3 / 4, 4 / 3))
    top, left, tall, wide = windows.double().unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 60).all()
    assert (left + wide <= 90).all()
    area, ratio = tall * wide / 5400, wide / tall
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.85
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.42
    # Small windows of a square image fit at the first attempt: nothing but the draw decides.
    small = draw_windows(uniform(4000, COLUMNS), 600, 600, (0.1, 0.3), (0.9, 1.1)).double()
    assert float((small[:, 2] * small[:, 3]).mean() / 360000) == pytest.approx(0.2, abs=0.003)
    middle = (math.log(0.9) + math.log(1.1)) / 2
    assert float((small[:, 3] / small[:, 2]).log().mean()) == pytest.approx(middle, abs=0.003)


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 40, (0, 13, 10, 13)), (40, 10, (13, 0, 13, 10))])
def test_where_no_window_fits_it_is_the_largest_about_the_centre(height: int, width: int, expected: Any) -> None:
    found = draw_windows(uniform(5, COLUMNS), height, width, (1.0, 1.0), (3 / 4, 4 / 3))
    assert [tuple(row) for row in found.tolist()] == [expected] * 5


def test_a_crop_of_everything_is_the_image_itself() -> None:
    images = pictures(8, 20, 20)
    assert torch.equal(crop_and_resize(images, torch.tensor([[0, 0, 20, 20]] * 8)), images)
    augment = ImagenetAugment(settings=WHOLE, flip=False)
    assert torch.equal(augment(images, generator(0)), images)
    mirrored = ImagenetAugment(settings=WHOLE)(images, generator(0))
    same = torch.tensor([torch.equal(one, image) for one, image in zip(mirrored, images, strict=True)])
    flipped = torch.tensor([torch.equal(one.flip(-1), image) for one, image in zip(mirrored, images, strict=True)])
    assert (same | flipped).all()
    assert 0 < int(flipped.sum()) < 8


def test_a_linear_image_stays_linear() -> None:
    """Bilinear interpolation is exact on a ramp, but for the half pixel at the window's ends, which is repeated."""
    ramp = (8 * torch.arange(30)).to(torch.uint8).expand(1, 1, 30, 30)
    found = crop_and_resize(ramp, torch.tensor([[3, 10, 15, 10]]))
    places = ((torch.arange(30) + 0.5) / 3 - 0.5).clamp(0, 9) + 10
    assert torch.equal(found[0, 0, 0], (8 * places).round().to(torch.uint8))
    assert (found == found[:, :, :1]).all()


def test_the_crop_is_torchvision_s_up_to_rounding() -> None:
    functional = need("torchvision.transforms.v2.functional")
    images = pictures(20, 33, 41)
    windows = draw_windows(uniform(20, COLUMNS), 33, 41, (0.08, 1.0), (3 / 4, 4 / 3))
    ours = crop_and_resize(images, windows)
    for image, window, found in zip(images, windows.tolist(), ours, strict=True):
        theirs = functional.resized_crop(image, *window, [33, 41], antialias=True)
        assert int((found.int() - theirs.int()).abs().max()) <= 1


# Jitter and RandAugment


def test_jitter_of_brightness_alone_is_that_operation() -> None:
    images = pictures(10)
    augment = ImagenetAugment(settings=dataclasses.replace(WHOLE, brightness=0.4), flip=False)
    params = augment.draw(10, generator(1))
    strength = 0.6 + 0.8 * params[:, COLUMNS + 1]
    assert torch.equal(augment(images, params), pil_ops.adjust_brightness(images, strength))


def test_the_order_of_the_jitter_is_each_image_s_own() -> None:
    images = pictures(40)
    augment = ImagenetAugment(settings=dataclasses.replace(WHOLE, brightness=0.5, contrast=0.5), flip=False)
    params = augment.draw(40, generator(1))
    found = augment(images, params)
    bright, contrast = (0.5 + params[:, COLUMNS + 1 + k] for k in range(2))
    one = pil_ops.adjust_contrast(pil_ops.adjust_brightness(images, bright), contrast)
    other = pil_ops.adjust_brightness(pil_ops.adjust_contrast(images, contrast), bright)
    first = params[:, COLUMNS + 5] < params[:, COLUMNS + 6]
    assert torch.equal(found, torch.where(first[:, None, None, None], one, other))
    assert 0 < int(first.sum()) < 40


def test_rand_augment_draws_every_operation_equally_often() -> None:
    assert len(OPERATIONS) == 14
    numbers = (uniform(14_000, 1)[:, 0] * 14).long().bincount()
    assert (numbers - 1000).abs().max() < 130
    images = pictures(20)
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        draws = torch.tensor([[(number + 0.5) / 14, sign] for sign in (0.2, 0.7)] * 10, dtype=torch.float64)
        strength = torch.full((20,), operation.strength(0.3, 32, 32), dtype=torch.float64)
        if operation.signed:
            strength[0::2] *= -1
        assert torch.equal(rand_augment(images, draws, 9), operation.apply(images, strength)), name


def test_the_strengths_are_torchvision_s() -> None:
    v2 = need("torchvision.transforms.v2")
    names = {
        "ShearX": "shear-x", "ShearY": "shear-y", "TranslateX": "translate-x", "TranslateY": "translate-y",
        "Rotate": "rotate", "Brightness": "brightness", "Color": "color", "Contrast": "contrast",
        "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast",
        "Equalize": "equalize", "Identity": "identity",
    }  # fmt: skip
    theirs = v2.RandAugment()._AUGMENTATION_SPACE
    assert {names[name] for name in theirs} == set(OPERATIONS)
    for name, (strengths, signed) in theirs.items():
        found = strengths(31, 60, 90)
        ours = OPERATIONS[names[name]]
        assert ours.signed == signed
        for magnitude in (0, 9, 30) if found is not None else ():
            scale = 255 if name == "Solarize" else 1
            expected = float(found[magnitude]) * scale
            assert ours.strength(magnitude / 30, 60, 90) == pytest.approx(expected, rel=1e-5, abs=1e-5)


FULL = ImagenetSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, rand_augment=2)


@pytest.mark.parametrize("channels", [3, 1])
def test_the_whole_of_it_depends_on_the_draw_alone(channels: int) -> None:
    images, augment = pictures(24, 20, 26, channels), ImagenetAugment(settings=FULL)
    before = torch.get_rng_state()
    params = augment.draw(24, generator(5))
    found = augment(images, params)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    for part in (slice(0, 7), slice(7, 24)):
        assert torch.equal(augment(images[part], params[part]), found[part]), "an image's neighbours have no say"
    assert torch.equal(augment(images, generator(5)), found)
    assert not torch.equal(augment(images, generator(6)), found)
    assert torch.equal(before, torch.get_rng_state())
    assert len(augment(images[:0], params[:0])) == 0


# torchvision's transforms, and anybody's


def test_torchvision_s_transforms_are_seeded_by_place() -> None:
    v2 = need("torchvision.transforms.v2")
    images = pictures(12, 20, 26)
    augment = PerImage(TorchvisionTransform(FULL, flip=True))
    states = torch.get_rng_state(), random.getstate()
    params = augment.draw(12, generator(5))
    found = augment(images, params)
    assert torch.equal(augment(images[4:], params[4:]), found[4:])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    pipeline = v2.Compose([v2.RandomResizedCrop((20, 26)), v2.RandomHorizontalFlip()])
    by_hand = PerImage(pipeline)(images, params)
    assert torch.equal(PerImage(TorchvisionTransform(ImagenetSettings(), flip=True))(images, params), by_hand)
    assert resolve_backend(FULL).by == "torchvision"


def test_without_torchvision_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for loaded in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert resolve_backend(FULL).by == "batch"
    with pytest.raises(ClatError, match='by = "batch"'):
        TorchvisionTransform(FULL, flip=True)


def test_a_callable_draws_from_states_of_its_own() -> None:
    def noise(image: torch.Tensor) -> torch.Tensor:
        level = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return (image / 255 * float(level) / 3).double()

    images = pictures(6, 8, 8)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    augment = PerImage(noise)
    params = augment.draw(6, generator(0))
    found = augment(images, params)
    assert found.dtype == torch.float32
    assert torch.equal(augment(images[3:], params[3:]), found[3:])
    assert not torch.equal(found, augment(images, generator(1)))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def spoil(image: torch.Tensor) -> torch.Tensor:
    return image.fill_(0)


def test_a_callable_may_change_its_image_in_place() -> None:
    images = pictures(3, 8, 8)
    before = images.clone()
    assert not PerImage(spoil)(images, generator(0)).any()
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (lambda image: image[:, ::2], r"makes images of shape \(3, 4, 8\) of \(3, 8, 8\)"),
        (lambda image: 5, "returns a int: expected a tensor"),
        (lambda image: image.long(), "gives torch.int64"),
        (lambda image: (image / 255 - 0.5) / 0.2, "the augmentation's images lie in .*unnormalised"),
        (lambda image: image / 0, "failed on an image|nan or infinite|lie in"),
        (lambda image: image.missing, r"failed on an image of shape \(3, 8, 8\), AttributeError"),
        (lambda image: image if random.random() < 0.5 else image / 255, "uint8 images and floating-point ones"),
    ],
)
def test_what_a_callable_may_not_do(transform: Any, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        PerImage(transform)(pictures(8, 8, 8), generator(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"area": (0.0, 1.0)}, "area is 0.0 to 1.0"),
        ({"area": (0.5, 0.2)}, "the smaller one first"),
        ({"area": (0.5, 1.2)}, "fractions"),
        ({"ratio": (0.0, 1.0)}, "ratio is"),
        ({"brightness": -0.1}, "expected amounts of 0 or more"),
        ({"hue": 0.6}, "half the circle"),
        ({"rand_augment": -1}, "rand_augment is -1"),
        ({"magnitude": 31}, "expected 0 to 30"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ClatError, match=says):
        ImagenetSettings(**settings)


def test_images_of_another_type() -> None:
    with pytest.raises(ClatError, match=r"8-bit images with 3 channels or 1: these are torch\.float32 with 3"):
        ImagenetAugment()(pictures(2).float(), generator(0))
