from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.core.seeds import generator
from clat.data import Augment, ImageSet


def rows(*params: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(params)


def test_a_crop_is_an_exact_window(ramp: ImageSet) -> None:
    """Window (top, left) of the padded image; what lies beyond the edge is black."""
    augment = Augment(pad=2)
    images = ramp.images[:3]
    got = augment(images, rows((2, 2, 0), (0, 0, 0), (3, 4, 0)))
    assert torch.equal(got[0], images[0])
    assert torch.equal(got[1, :, 2:, 2:], images[1, :, :-2, :-2])
    assert not got[1, :, :2].any()
    assert not got[1, :, :, :2].any()
    assert torch.equal(got[2, :, :-1, :-2], images[2, :, 1:, 2:])
    assert not got[2, :, -1:].any()
    assert got.dtype == torch.uint8


def test_reflection_is_that_of_pytorch(ramp: ImageSet) -> None:
    """F.pad reflects floating-point images only; on these it is the reference."""
    for pad in (1, 4):
        images = ramp.images[:1]
        padded = F.pad(images.float(), (pad,) * 4, mode="reflect").to(torch.uint8)
        for top, left in ((0, 0), (2 * pad, 1), (1, 2 * pad)):
            got = Augment(pad=pad, padding_mode="reflect")(images, rows((top, left, 0)))
            assert torch.equal(got, padded[:, :, top : top + 6, left : left + 5])


def test_flipping_twice_is_the_identity(ramp: ImageSet) -> None:
    augment, images = Augment(pad=0), ramp.images
    mirrored = torch.zeros(len(images), 3, dtype=torch.int64)
    mirrored[::2, 2] = 1
    once = augment(images, mirrored)
    assert torch.equal(once[::2], images[::2].flip(-1))
    assert torch.equal(once[1::2], images[1::2])
    assert torch.equal(augment(once, mirrored), images)


def test_draws_cover_their_range_evenly() -> None:
    params = Augment(pad=3).draw(14_000, generator(0))
    for column, values in ((0, 7), (1, 7), (2, 2)):
        share = params[:, column].bincount().double() / len(params)
        assert len(share) == values
        torch.testing.assert_close(share, torch.full_like(share, 1 / values), atol=0.015, rtol=0)


def test_nothing_asked_is_nothing_done(ramp: ImageSet) -> None:
    got = Augment(pad=0, flip=False)(ramp.images, generator(0))
    assert torch.equal(got, ramp.images)
    assert got.data_ptr() != ramp.images.data_ptr()


def test_a_generator_stands_for_its_draw(ramp: ImageSet) -> None:
    augment, before = Augment(), torch.get_rng_state()
    drawn = augment(ramp.images, augment.draw(26, generator(5)))
    assert torch.equal(drawn, augment(ramp.images, generator(5)))
    assert torch.equal(before, torch.get_rng_state())


def test_floating_point_and_empty_batches_pass(ramp: ImageSet) -> None:
    augment, params = Augment(pad=1), rows((0, 1, 1))
    images = ramp.images[:1]
    assert torch.equal(augment(images.double(), params), augment(images, params).double())
    assert augment(images[:0], params[:0]).shape == (0, 3, 6, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad": -1}, "pad is -1"),
        ({"pad": 1.5}, "pad is 1.5"),
        ({"pad": True}, "pad is True"),
        ({"flip": 1}, "flip is 1"),
        ({"padding_mode": "reflct"}, "did you mean 'reflect'"),
    ],
)
def test_bad_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        Augment(**fields)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_as_wide_as_the_image_is_refused(ramp: ImageSet, mode: str) -> None:
    Augment(pad=4, padding_mode=mode)(ramp.images, generator(0))
    with pytest.raises(ClatError, match="cannot pad 5x6 images by 5 pixels"):
        Augment(pad=5, padding_mode=mode)(ramp.images, generator(0))
