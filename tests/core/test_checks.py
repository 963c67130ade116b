from __future__ import annotations

import numpy as np
import pytest
import torch

from clat.core.errors import ClatError
from clat.data import check_images, check_labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_images_pass(dtype: torch.dtype) -> None:
    check_images(torch.tensor([0.0, 0.5, 1.0], dtype=dtype).reshape(1, 3, 1, 1))
    check_images(torch.zeros(0, 3, 4, 4, dtype=dtype))
    check_images(torch.rand(2, 1, 3, 3, dtype=dtype, requires_grad=True))


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
        (torch.tensor([0, 0, 1.001]).reshape(1, 3, 1, 1), "unnormalised"),
        (torch.tensor([0, float("nan"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
        (torch.tensor([0, float("inf"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
        (torch.tensor([0, float("-inf"), 1]).reshape(1, 3, 1, 1), "nan or infinite"),
    ],
)
def test_bad_images_are_refused_with_the_remedy(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ClatError, match=message):
        check_images(x)


def test_good_labels_pass() -> None:
    check_labels(torch.tensor([0, 9]), 10, 2)
    check_labels(torch.zeros(0, dtype=torch.int64), 10, 0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], "torch.as_tensor"),
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
