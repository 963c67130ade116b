"""Images and labels as arrays: tensors, or NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clat.core.checks import check_images, kind_of
from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.data.classes import Labels
from clat.data.pixels import by_channel, tensor_of

_CHUNK = 1024
"""Images looked at together."""


def image_array(images: Any, where: str) -> Tensor:
    """Return images as they are stored in an `ImageSet`.

    Args:
        images: a tensor (N, C, H, W) or (N, H, W), or a NumPy array that may be (N, H, W, C) too; uint8, or
            floating-point in [0, 1].
        where: what they are called in messages.

    Returns:
        uint8 where that is what they are, or what they were made from: values k / 255 to the last bit; else
        float32.

    Raises:
        ClatError: another type, shape or range.
    """
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise ClatError(f"{where}: images are {images.dtype}, expected uint8, or floating point in [0, 1]")
        grey = images.ndim == 3
        images = tensor_of(images if grey else by_channel(images, f"{where}: the array"), where)
    if not isinstance(images, Tensor):
        raise ClatError(f"{where}: images are a {kind_of(images)}, expected a torch.Tensor or a NumPy array")
    images = images.detach().cpu()
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ClatError(f"{where}: images have shape {tuple(images.shape)}, expected (N, C, H, W)")
    if images.dtype == torch.uint8:
        return images
    try:
        check_images(images)
    except ClatError as error:
        raise ClatError(f"{where}: {error}") from None
    images = images.float()
    exact = torch.empty(images.shape, dtype=torch.uint8)
    for part, whole in zip(images.split(_CHUNK), exact.split(_CHUNK), strict=True):
        whole.copy_((part * 255).round())
        if not torch.equal(whole.float().div_(torch.tensor(255.0)), part):
            return images
    return exact


def label_array(labels: Any, n: int, where: str) -> Labels:
    """Return class numbers as labels without names.

    Args:
        labels: a tensor, a NumPy array or a list of whole numbers, (N,).
        n: how many images there are.
        where: what they are called in messages.

    Returns:
        The labels, int64, and how many classes there are.

    Raises:
        ClatError: anything else.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 2 and len(values) == n and values.shape[1] > 1:
        raise ClatError(f"{where}: labels have shape {values.shape}, expected ({n},): for one-hot labels.argmax(1)")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ClatError(
            f"{where}: labels are {values.dtype} of shape {values.shape}, expected whole numbers of shape ({n},)"
        )
    if len(values) != n:
        raise ClatError(f"{where}: {counted(len(values), 'label')} for {counted(n, 'image')}: give one an image")
    return Labels(values.astype(np.int64))
