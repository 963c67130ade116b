"""The drawn parameters against the published ranges, and their application against PIL, image by image."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.seeds import generator
from clat.data import IDBH, IDBH_VARIANTS, BatchAugment, ImageSet, Loader
from clat.data.idbh import SPACES

from .conftest import from_pil, pictures, to_pil

NAMES = ("color", "brightness", "contrast", "sharpness", "autocontrast", "equalize", "shear x", "shear y", "rotate")


def published(image: Image.Image, row: list[float]) -> Tensor:
    """The pipeline on one PIL image, with the drawn parameters of one row."""
    mirrored, cut_y, cut_x, top, left, to_top, to_left, op = (int(value) for value in row[:8])
    strength, erased, areas, ratios, place = row[8], row[9], row[10:20], row[20:30], row[30:]
    width, height = image.size
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    window = image.crop((left, top, left + width - cut_x, top + height - cut_y))
    image = Image.new("RGB", (width, height))
    image.paste(window, (to_left, to_top))
    name = NAMES[op]
    if name in ("color", "brightness", "contrast", "sharpness"):
        image = getattr(ImageEnhance, name.capitalize())(image).enhance(strength)
    elif name in ("autocontrast", "equalize"):
        image = getattr(ImageOps, name)(image)
    elif name == "rotate":
        image = image.rotate(strength, Image.Resampling.NEAREST)
    else:
        tangent = math.tan(strength)
        matrix = (1, tangent, -tangent * height / 2, 0, 1, 0)
        if name == "shear y":
            matrix = (1, 0, 0, tangent, 1, -tangent * width / 2)
        image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
    pixels = from_pil(image)
    if erased:
        for area, ratio in zip(areas, ratios, strict=True):
            tall, wide = (round(math.sqrt(area * height * width * r)) for r in (ratio, 1 / ratio))
            if tall < height and wide < width:
                y, x = int(place[0] * (height - tall + 1)), int(place[1] * (width - wide + 1))
                pixels[:, y : y + tall, x : x + wide] = 0
                break
    return pixels


@pytest.mark.parametrize("variant", IDBH_VARIANTS)
def test_each_image_is_that_of_the_published_pipeline(variant: str) -> None:
    augment = IDBH_VARIANTS[variant]
    images = pictures(200)
    before = images.clone()
    params = augment.draw(200, generator(3))
    got = augment(images, params)
    assert torch.equal(images, before)
    assert got.shape == images.shape
    assert got.dtype == torch.uint8
    for number, (image, row) in enumerate(zip(images, params.tolist(), strict=True)):
        assert torch.equal(got[number], published(to_pil(image), row)), f"image {number}: {NAMES[int(row[7])]}"
    assert sorted(set(params[:, 7].tolist())) == list(range(9)), "every operation was among them"


def test_oblong_images_and_rectangles_that_do_not_fit() -> None:
    """Twelve rows by forty columns: tall rectangles are refused and the next attempt is taken."""
    augment = IDBH(erase=1.0, erase_area=(0.3, 0.6))
    images, params = pictures(60, 12, 40), augment.draw(60, generator(0))
    params[0, 20:30] = 3.3  # none of the ten fits: not erased
    got = augment(images, params)
    for number, (image, row) in enumerate(zip(images, params.tolist(), strict=True)):
        assert torch.equal(got[number], published(to_pil(image), row))


@pytest.mark.parametrize(
    ("variant", "cut", "erase", "area", "shear", "degrees"),
    [
        ("idbh-weak", 10, 0.5, (0.02, 0.33), 0.15, 10),
        ("idbh-strong", 10, 1.0, (0.02, 0.33), 0.15, 10),
        ("idbh-svhn", 8, 1.0, (0.02, 0.5), 0.35, 30),
    ],
)
def test_draws_have_the_published_distribution(
    variant: str, cut: int, erase: float, area: tuple[float, float], shear: float, degrees: int
) -> None:
    n = 40_000
    augment: BatchAugment = IDBH_VARIANTS[variant]
    params = augment.draw(n, generator(1))
    assert params.shape == (n, 32)
    mirrored, cut_y, cut_x, top, left, to_top, to_left, op, strength, erased = params[:, :10].unbind(1)

    def close(got: float, expected: float) -> bool:
        return abs(got - expected) < 0.012

    assert close(mirrored.mean(), 0.5)
    cuts = (cut_y + cut_x).long().bincount() / n
    torch.testing.assert_close(cuts, torch.full((cut + 1,), 1 / (cut + 1)), atol=0.012, rtol=0)
    most = cut_y + cut_x == cut  # of those, the part of the columns is uniform too
    share = cut_x[most].long().bincount() / most.sum()
    torch.testing.assert_close(share, torch.full((cut + 1,), 1 / (cut + 1)), atol=0.03, rtol=0)
    for start, room in ((top, cut_y), (to_top, cut_y), (left, cut_x), (to_left, cut_x)):
        assert ((start >= 0) & (start <= room)).all()
        assert start[room == 3].unique().tolist() == [0, 1, 2, 3]
    space = SPACES[augment.space]
    for number, choice in enumerate(space):
        assert close((op == number).double().mean(), choice.probability), NAMES[number]
    assert sum(choice.probability for choice in space) == pytest.approx(1)
    ranges = [(0.1, 1.9), (0.5, 1.9), (0.5, 1.9), (0.1, 1.9), (0, 0), (0, 0), *2 * [(-shear, shear)]]
    for number, (low, high) in enumerate(ranges):
        values = strength[op == number]
        assert low <= values.min() <= low + 0.01
        assert high - 0.01 <= values.max() <= high
    assert strength[(op == 6) | (op == 7)].abs().min() >= 0.05
    angles = [float(angle) for angle in range(-degrees, degrees + 1) if angle]
    assert strength[op == 8].unique().tolist() == angles
    assert close(erased.mean(), erase)
    assert area[0] <= params[:, 10:20].min() < area[0] + 0.001
    assert area[1] - 0.001 < params[:, 10:20].max() <= area[1]
    ratios = params[:, 20:30].log()
    assert math.log(0.3) <= ratios.min() < ratios.max() <= math.log(3.3)
    assert close(ratios.mean(), (math.log(0.3) + math.log(3.3)) / 2)


def test_no_flip_is_no_flip() -> None:
    assert not IDBH(flip=False).draw(100, generator(0))[:, 0].any()


def test_a_generator_stands_for_its_draw_and_the_global_state_has_no_say() -> None:
    augment, images, before = IDBH(), pictures(20), torch.get_rng_state()
    drawn = augment(images, augment.draw(20, generator(5)))
    assert torch.equal(drawn, augment(images, generator(5)))
    assert not torch.equal(drawn, augment(images, generator(6)))
    assert torch.equal(before, torch.get_rng_state())
    assert augment(images[:0], augment.draw(0, generator(5))).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_process_sees(world_size: int) -> None:
    image_set = ImageSet("p", "train", ("a",), pictures(24), torch.zeros(24, dtype=torch.int64))
    options = {"shuffle": True, "seed": 1, "augment": IDBH()}
    one = list(Loader(image_set, 8, **options).epoch(2))
    ranks = [
        list(Loader(image_set, 8, rank=rank, world_size=world_size, **options).epoch(2))
        for rank in range(world_size)
    ]
    for (x, _), *shares in zip(one, *ranks, strict=True):
        assert torch.equal(x, torch.cat([share for share, _ in shares]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": "colour"}, "did you mean 'color'"),
        ({"crop_shift": -1}, "crop_shift is -1"),
        ({"erase": 1.5}, "probability 1.5"),
        ({"erase_area": (0.5, 0.2)}, "area of 0.5 to 0.2"),
        ({"erase_area": (0.0, 0.2)}, "area of 0.0"),
    ],
)
def test_bad_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        IDBH(**fields)


def test_images_that_it_cannot_work_on_are_refused() -> None:
    with pytest.raises(ClatError, match="cuts up to 10 pixels off, but the images are 32x10"):
        IDBH()(pictures(1, 10, 32), generator(0))
    with pytest.raises(ClatError, match=r"these are torch\.float32"):
        IDBH()(pictures(1).float(), generator(0))
    with pytest.raises(ClatError, match="with 2"):
        IDBH()(pictures(1)[:, :2], generator(0))
