from __future__ import annotations

import numpy as np
import pytest
import torch

from clat.core.checks import at_least
from clat.core.errors import ClatError
from clat.data import check_images, check_labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_images_pass(dtype: torch.dtype) -> None:
    check_images(torch.tensor([0.0, 0.5, 1.0], dtype=dtype).reshape(1, 3, 1, 1))
    check_images(torch.zeros(0, 3, 4, 4, dtype=dtype))
    check_images(torch.rand(2, 1, 3, 3, dtype=dtype, requires_grad=True))


@pytest.mark.parametrize("shape", [(2, 12, 50, 1), (2, 103, 3, 3), (2, 2, 50, 1), (2, 8, 3, 3)])
def test_narrow_images_of_other_channels_pass(shape: tuple[int, ...]) -> None:
    check_images(torch.rand(shape))


@pytest.mark.parametrize("shape", [(2, 32, 128, 3), (2, 40, 12, 3), (2, 12, 16, 1)])
def test_wide_and_tall_pictures_whose_channels_come_last_do_not(shape: tuple[int, ...]) -> None:
    for channels in (None, 3, 8):  # the first convolution by its place in the network need not be the first to run
        with pytest.raises(ClatError, match=r"permute\(0, 3, 1, 2\)"):
            check_images(torch.rand(shape), channels)
    check_images(torch.rand(shape), shape[1])


def test_the_first_convolution_tells_narrow_images_from_channels_that_come_last() -> None:
    check_images(torch.rand(2, 8, 8, 3), 8)
    for channels in (3, None):
        with pytest.raises(ClatError, match=r"permute\(0, 3, 1, 2\)"):
            check_images(torch.rand(2, 8, 6, 3), channels)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 2, 2)), "torch.as_tensor"),
        (torch.zeros(3, 8, 8), r"add the batch dimension with x\[None\]"),
        (torch.zeros(3), "expected four dimensions"),
        (torch.zeros(2, 8, 8, 3), r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8.*divide by 255"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), r"x\.float\(\)"),
        (torch.full((1, 3, 1, 1), 200.0), "divide by 255"),
        (torch.tensor([-2.1, 0, 2.6]).reshape(1, 3, 1, 1), r"\[-2.1, 2.6\].*normalisation inside the model"),
        (torch.full((1, 3, 1, 1), 1.0002), r"\[1.0002, 1.0002\], expected"),
        (torch.tensor([0, 0, 1.001]).reshape(1, 3, 1, 1), "unnormalised"),
        (torch.tensor([0, float("nan"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
        (torch.tensor([0, float("inf"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
        (torch.tensor([0, float("-inf"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
    ],
)
def test_bad_images_are_refused_with_the_remedy(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        check_images(x)


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (1.0000001, torch.float32, "[0, 1.0000001]"),
        (1 + 1e-12, torch.float64, "[0, 1.000000000001]"),
        (1.0078125, torch.bfloat16, "[0, 1.01]"),
    ],
)
def test_a_value_just_outside_is_shown_with_all_its_digits(value: float, dtype: torch.dtype, shown: str) -> None:
    with pytest.raises(ClatError) as caught:
        check_images(torch.tensor([0, 0, value], dtype=dtype).reshape(1, 3, 1, 1))
    assert shown in str(caught.value)
    assert ("x.clamp(0, 1)" in str(caught.value)) == (value < 1.001)


def test_a_value_just_below_zero() -> None:
    with pytest.raises(ClatError, match=r"lie in \[-1e-08, 1\], expected \[0, 1\]: .*x\.clamp\(0, 1\)"):
        check_images(torch.tensor([-1e-8, 0, 1]).reshape(1, 3, 1, 1))


def test_what_inference_mode_made_is_refused_with_the_remedy() -> None:
    with torch.inference_mode():
        x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ClatError, match=r"images were made under torch\.inference_mode.*x\.clone\(\)"):
        check_images(x)
    with pytest.raises(ClatError, match=r"labels were made under torch\.inference_mode.*y\.clone\(\)"):
        check_labels(y, None, 2)
    check_images(x.clone())
    check_labels(y.clone(), None, 2)


def test_good_labels_pass() -> None:
    check_labels(torch.tensor([0, 9]), 10, 2)
    check_labels(torch.zeros(0, dtype=torch.int64), 10, 0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], "a list, expected a torch.Tensor: convert with torch.as_tensor"),
        (np.array([0, 1]), "a numpy.ndarray, expected a torch.Tensor: convert with torch.as_tensor"),
        (torch.eye(10)[:2], r"y\.argmax\(1\)"),
        (torch.zeros(2, 1, dtype=torch.int64), "one class number an image"),
        (torch.tensor([0.0, 1.0]), r"y\.long\(\)"),
        (torch.tensor([0, 1, 2]), "3 labels for 2 images"),
        (torch.tensor([0, 10]), r"\[0, 10\], expected 0 to 9"),
        (torch.tensor([-1, 0]), r"\[-1, 0\], expected 0 to 9"),
    ],
)
def test_bad_labels_are_refused_with_the_remedy(y: torch.Tensor, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        check_labels(y, 10, 2)


@pytest.mark.parametrize("value", [2**63, 10**30, 10**5000], ids=["64 bits", "100 bits", "more than Python shows"])
def test_numbers_that_torch_does_not_take_are_refused_in_a_short_line(value: int) -> None:
    with pytest.raises(ClatError, match=r"batch_size is .{19,31}: expected at most 9223372036854775807") as caught:
        at_least("batch_size", value, 1)
    assert len(str(caught.value)) < 100


def test_the_largest_number_passes() -> None:
    at_least("batch_size", 2**63 - 1, 1)
    at_least("a number with a point", float("inf"), 1)
