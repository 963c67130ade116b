"""Grey images for networks that take one channel, and grey ones repeated for those that take three."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.data.imageset import ImageSet
from clat.data.lazy import LazyImages

_CHUNK = 1024
"""Images converted at a time, since sums need more than a byte."""


def with_channels(images: ImageSet, channels: int | None) -> ImageSet:
    """Return the same set with images of so many channels.

    Args:
        images: a set of one channel or three.
        channels: 1: the brightness of colours as PIL has it, which leaves grey ones what they are; 3: grey
            repeated; None: what they are.

    Returns:
        The set itself where nothing is to do; a resident set is converted now, a lazy one when it is asked for
        images.

    Raises:
        ClatError: another number is asked for, or the images have another one.
    """
    own = images.shape[0]
    if channels in (None, own):
        return images
    if channels not in (1, 3) or own not in (1, 3):
        raise ClatError(
            f"images of '{images.name}' have {counted(own, 'channel')}: there is no way to make them {channels}"
        )
    if channels == 1 and images.dtype != torch.uint8:
        raise ClatError(f"images of '{images.name}' are {images.dtype}: only 8-bit ones are made grey here")
    if isinstance(images.images, LazyImages):
        return replace(images, images=ConvertedImages(images.images, channels))
    return replace(images, images=_converted(images.images, channels))


def brightness(images: Tensor) -> Tensor:
    """Return the luma of ITU-R 601 of RGB images, as PIL rounds it.

    Args:
        images: uint8, shape (N, 3, H, W).

    Returns:
        Grey images, uint8, shape (N, 1, H, W).
    """
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8).unsqueeze(1)


class ConvertedImages(LazyImages):
    """Images that are not in memory, made grey or repeated when they are asked for."""

    def __init__(self, source: LazyImages, channels: int) -> None:
        self.source, self.channels = source, channels
        self.shape = (channels, *source.shape[1:])
        self.dtype, self.at_hand = source.dtype, source.at_hand

    def __len__(self) -> int:
        return len(self.source)

    def subset(self, indices: Tensor) -> ConvertedImages:
        return ConvertedImages(self.source.subset(indices), self.channels)

    def fetch(self, indices: Tensor, place: tuple[int, ...] = ()) -> Tensor:
        return _converted(self.source.fetch(indices, place), self.channels)


def _converted(images: Tensor, channels: int) -> Tensor:
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    return torch.cat([brightness(part) for part in images.split(_CHUNK)])
