"""One image of the user's own, in whatever form, as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clat.core.checks import channels_last, kind_of, like_layers, like_pictures
from clat.core.errors import ClatError
from clat.data.decode import UNREADABLE, to_array, why_unreadable


def to_pixels(image: Any, size: int | None, where: str) -> Tensor:
    """Return an image as it is stored: uint8, or float32 where its values are floating-point, shape (C, H, W).

    Args:
        image: a PIL image, which is not turned by an EXIF tag; a tensor (C, H, W) or (H, W); a NumPy array
            (H, W, C), (C, H, W) or (H, W). Values are uint8, or floating-point in [0, 1], which is looked at for a
            whole batch.
        size: pixels, of PIL images alone; see `to_array`.
        where: what the image is called in messages.

    Returns:
        The pixels, a tensor on the CPU.

    Raises:
        ClatError: anything else.
    """
    if isinstance(image, Image.Image):
        try:
            # A copy, since PIL's own memory is not to be written.
            return torch.from_numpy(np.array(to_array(image, size, turn=False)))
        except UNREADABLE as error:
            raise ClatError(f"cannot read {where}: {why_unreadable(error)}") from error
    if isinstance(image, np.ndarray):
        image = tensor_of(by_channel(image, where), where).clone()  # the data set may use its memory again
    if not isinstance(image, Tensor):
        raise ClatError(f"{where} is a {kind_of(image)}: expected a PIL image, a tensor or a NumPy array")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3:
        raise ClatError(f"{where} has shape {tuple(image.shape)}: expected (C, H, W)")
    if like_pictures(image.shape):
        raise ClatError(f"{where} has shape {tuple(image.shape)}: expected (C, H, W), image.permute(2, 0, 1)")
    if image.dtype == torch.uint8:
        return image.as_subclass(Tensor).detach().cpu()
    if not image.is_floating_point():
        raise ClatError(f"{where} is of type {image.dtype}: expected uint8, or floating point in [0, 1]")
    return image.as_subclass(Tensor).detach().cpu().float()


def tensor_of(array: np.ndarray, where: str) -> Tensor:
    """Return an array as a tensor, of the same memory where that can be.

    Args:
        array: of any byte order; floating point of more than 64 bits is rounded.
        where: what it is called in messages.

    Returns:
        A tensor of the same values.

    Raises:
        ClatError: it does not hold numbers.
    """
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    try:
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError:
        raise ClatError(f"{where} is of type {array.dtype}: expected uint8, or floating point in [0, 1]") from None


def by_channel(array: np.ndarray, where: str) -> np.ndarray:
    """Return an array of images with the channels before the height.

    Args:
        array: (..., H, W, C), as NumPy images mostly are, or (..., C, H, W), which is left alone. Where either may
            be, the channels come last: narrow images (12, T, 1) come as a tensor.
        where: what it is called in messages.

    Returns:
        (..., C, H, W), of the same memory.

    Raises:
        ClatError: pictures with an alpha channel or a further band come last, which may be meant otherwise.
    """
    if array.ndim >= 3 and like_layers(array.shape):
        raise ClatError(
            f"{where} has shape {array.shape}, with {array.shape[-1]} channels in the last place: leave alpha out,"
            " [..., :3], or put them before the height, (..., C, H, W)"
        )
    return np.moveaxis(array, -1, -3) if array.ndim >= 3 and channels_last(array.shape) else array
