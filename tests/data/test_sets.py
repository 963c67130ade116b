"""ImageSet, hold_out, and the decoding of single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from clat.core.errors import ClatError
from clat.data import ImageSet, Loader, as_image_set, hold_out, load_split
from clat.data.decode import to_array
from clat.data.splits import images_in_both

from .conftest import WriteParquet, encoded, picture


def test_a_cut_shares_nothing_and_loses_nothing(ramp: ImageSet) -> None:
    train, held = hold_out(ramp, 6, seed=0)
    assert (len(train), len(held)) == (20, 6)
    assert sorted([*train.labels.tolist(), *held.labels.tolist()]) == list(range(26))
    for part in (train, held):
        assert torch.equal(part.images, ramp.images[part.labels])  # labels of the ramp are its row numbers
    assert torch.equal(train.labels, train.labels.sort().values)


def test_a_cut_follows_from_its_seed_alone(ramp: ImageSet) -> None:
    torch.manual_seed(1)
    first = hold_out(ramp, 6, seed=0)[1].labels
    torch.manual_seed(2)
    assert torch.equal(first, hold_out(ramp, 6, seed=0)[1].labels)
    assert not torch.equal(first, hold_out(ramp, 6, seed=1)[1].labels)
    assert sorted(first.tolist()) == [1, 9, 10, 15, 24, 25]  # golden: the same on every machine


def test_smaller_training_sets_are_nested_and_hold_out_the_same(ramp: ImageSet) -> None:
    small, large = (hold_out(ramp, 6, seed=0, train_size=size) for size in (5, 12))
    assert len(small[0]) == 5
    assert set(small[0].labels.tolist()) < set(large[0].labels.tolist())
    assert torch.equal(small[1].labels, large[1].labels)


def test_nothing_may_be_held_out(ramp: ImageSet) -> None:
    train, held = hold_out(ramp, 0, seed=0)
    assert (len(train), len(held)) == (26, 0)


@pytest.mark.parametrize(
    ("n", "train_size", "message"),
    [
        (-1, None, "cannot hold out -1"),
        (26, None, "at least one must be left"),
        (6, 21, "with 6 of 26 held out, give 1 to 20"),
        (6, 0, "cannot train on 0"),
    ],
)
def test_impossible_cuts_are_refused(ramp: ImageSet, n: int, train_size: int | None, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        hold_out(ramp, n, 0, train_size)


def test_subsets(ramp: ImageSet, parquet: WriteParquet) -> None:
    lazy = load_split(parquet([encoded(picture(k)) for k in range(6)]), "train", resident_limit=0)
    for image_set in (ramp, lazy):
        part = image_set.subset([4, 1, 2]).subset(torch.tensor([2, 0]))
        assert torch.equal(part.labels, image_set.labels[[2, 4]])
        assert torch.equal(part.load().images, image_set.load().images[[2, 4]])
        assert part.resident == image_set.resident
        assert len(image_set.take(3)) == 3
        assert len(image_set.take(0).load().images) == 0
        assert part.shape == image_set.shape
        with pytest.raises(ClatError, match="reach outside"):
            image_set.subset([-1])
        with pytest.raises(ClatError, match="cannot take"):
            image_set.take(27)


def test_a_set_of_tensors_is_checked() -> None:
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    good = ImageSet("mine", "train", ("a", "b"), images, labels)
    assert (good.shape, good.num_classes, good.nbytes, good.resident) == ((3, 4, 4), 2, 96, True)
    for bad_images, bad_labels, message in (
        (images.float(), labels, "expected torch.uint8"),
        (images[0], labels, "expected torch.uint8"),
        (images, labels.float(), "expected torch.int64"),
        (images, labels[:1], r"shape \(2,\)"),
        (images, labels + 1, "row 1 has label 2, expected 0 to 1"),
        (images, labels - 1, "row 0 has label -1.*without labels"),
        (images, labels.numpy(), r"labels are a numpy.ndarray, expected a torch.Tensor: .*as_tensor\(labels\)"),
        (images, [0, 1], "labels are a list, expected a torch.Tensor"),
        (images.numpy(), labels, r"images are a numpy.ndarray, expected a torch.Tensor: .*as_tensor\(images\)"),
        (
            images.permute(0, 2, 3, 1),
            labels,
            r"shape \(2, 4, 4, 3\), expected \(N, C, H, W\): .*permute\(0, 3, 1, 2\)",
        ),
        (images[:, :1].permute(0, 2, 3, 1), labels, "permute"),
        (images, labels.int(), r"torch.int32.*labels.long\(\)"),
    ):
        with pytest.raises(ClatError, match=message):
            ImageSet("mine", "train", ("a", "b"), bad_images, bad_labels)


@pytest.mark.parametrize("shape", [(12, 50, 1), (103, 3, 3), (2, 50, 1)])
def test_narrow_images_of_other_channels_are_images(shape: tuple[int, ...]) -> None:
    images, labels = torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1])
    assert ImageSet("mine", "train", ("a", "b"), images, labels).shape == shape
    for mine in ((images.float(), labels), TensorDataset(images.float(), labels)):
        assert as_image_set(mine).shape == shape


def test_the_names_of_classes_are_a_list() -> None:
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(ClatError, match="class_names is the text 'cat', expected one name a class"):
        ImageSet("mine", "train", "cat", images, labels)


def test_what_inference_mode_made_can_be_served() -> None:
    with torch.inference_mode():
        images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    x, y = next(iter(Loader(ImageSet("mine", "train", ("a", "b"), images, labels), 2).epoch()))
    assert not x.is_inference()
    assert not y.is_inference()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    array = to_array(Image.fromarray(picture(0)).convert(mode))
    assert (array.shape, array.dtype) == ((3, 10, 12), np.uint8)


def test_grey_is_repeated_and_deep_images_are_refused() -> None:
    grey = picture(0)[:, :, 0]
    assert (to_array(Image.fromarray(grey)) == grey).all()
    with pytest.raises(ValueError, match="more than 8 bits"):
        to_array(Image.fromarray(grey.astype(np.uint16)))


def test_resizing_keeps_the_centre_square() -> None:
    """A wide image: its sides fall away, its centre stays; one of the wanted size is left alone."""
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    assert (to_array(Image.fromarray(wide), 10) == 200).all()
    assert to_array(Image.fromarray(wide), 5).shape == (3, 5, 5)
    assert to_array(Image.fromarray(wide.transpose(1, 0, 2)), 16).shape == (3, 16, 16)
    square = picture(0, 10, 10)
    assert (to_array(Image.fromarray(square), 10) == square.transpose(2, 0, 1)).all()


def test_a_photograph_is_turned_as_its_tag_says() -> None:
    image = Image.fromarray(picture(0))
    image.getexif()[0x112] = 6  # orientation: turn by 270 degrees
    assert to_array(image).shape == (3, 12, 10)


def test_held_out_images_that_are_trained_on_are_counted(ramp):
    twice = ramp.subset([*range(len(ramp)), 0, 1])
    train, heldout = hold_out(twice, 4, 0)
    expected = sum(any(torch.equal(image, other) for other in train.pixels()) for image in heldout.pixels())
    assert images_in_both(train, heldout) == expected
    assert images_in_both(*hold_out(ramp, 4, 0)) == 0
