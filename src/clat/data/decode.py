"""From stored image files to uint8 pixels, on demand."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from clat.core.errors import ClatError, first_line
from clat.data.lazy import LazyImages
from clat.data.tree import shown

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    MemoryError,
    OverflowError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What opening and decoding a file that is no image, or a broken one, may end in."""
_LARGEST = 4096  # pixels a side, of images that are not resized: a batch of larger ones would fill the memory
_MOST_RESIZED = 2**26  # pixels, before the centre is cut out: more are those of a strip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


def to_array(image: Image.Image, size: int | None = None) -> np.ndarray:
    """Return the image as uint8 RGB, shape (3, H, W); see `to_rgb`.

    With `size`, the shorter side is resized to it (bicubic, antialiased) and the centre size x size square is
    kept; an image that already has this size is left untouched.

    Raises:
        ValueError: as `to_rgb`, or a side that is too long for the memory of a batch, or for resizing.
    """
    if size is None and max(image.size) > _LARGEST:
        raise ValueError(f"{image.width}x{image.height} pixels are too many for a network: give image_size")
    image = to_rgb(image)
    if size is not None and image.size != (size, size):
        width, height = image.size
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        if width * height > _MOST_RESIZED:
            raise ValueError(f"{image.width}x{image.height} pixels are too narrow to be resized")
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).transpose(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB: turned as its EXIF tag says, grey repeated, transparency dropped.

    Raises:
        ValueError: a mode of more than 8 bits a channel, which PIL would clip rather than scale.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel; store it as 8-bit")
    image.load()
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "P":  # straight to RGB, PIL warns when the palette holds transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The orientation that the EXIF tag of a loaded image says, 1 to 8; 1 where its EXIF cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF ends in exceptions of any kind; the pixels, which are loaded, are sound
        return 1


def open_image(data: bytes | None, path: str | None, root: Path | None) -> Image.Image:
    """Open an encoded image of one of the usual formats: others, as EPS, would run a program.

    Args:
        data: the file's content; None: it is read from its `path`, below `root`.

    Raises:
        UNREADABLE: not such a file, or one with more pixels than PIL thinks safe.
    """
    file = os.path.join(root or "", str(path)) if data is None else io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of broken EXIF
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file, formats=_formats())


def why_unreadable(error: BaseException) -> str:
    """Return what an error of `open_image` and `to_rgb` says, in one line."""
    return "not an image file" if isinstance(error, Image.UnidentifiedImageError) else first_line(error)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    usual = "PNG JPEG WEBP BMP DIB GIF TIFF PPM TGA MPO JPEG2000 AVIF"
    return tuple(name for name in usual.split() if name in Image.OPEN)


class EncodedImages(LazyImages):
    """Encoded images, in files or bytes: one column of a map-style Hugging Face data set.

    Args:
        table: the data set; its column `column` gives ``{"bytes": ..., "path": ...}`` (an Image feature, not
            decoded).
        where: what the images are called in messages, for example ``cifar10/train``.
        size: see `to_array`. Without it all images must have the first one's size.
        rows: the rows of `table` that belong to this set, in order; all by default.
        root: where the paths of images begin that are no absolute ones.
        shape: (3, H, W) where it is known; else the first image is decoded to see.
    """

    def __init__(
        self,
        table: Any,
        column: str,
        *,
        where: str,
        size: int | None = None,
        rows: torch.Tensor | None = None,
        root: Path | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.table, self.column, self.where, self.size, self.root = table, column, where, size, root
        self.rows = torch.arange(len(table)) if rows is None else rows
        self.shape = shape or ((3, size, size) if size else self._decode(0, table[0][column]).shape)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: torch.Tensor) -> EncodedImages:
        rows = self.rows[indices]
        return EncodedImages(
            self.table, self.column, where=self.where, size=self.size, rows=rows, root=self.root, shape=self.shape
        )

    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        rows = self.rows[indices].tolist()
        batch: np.ndarray = np.empty((len(rows), *self.shape), dtype=np.uint8)
        found = self.table[rows][self.column] if rows else ()
        for target, row, stored in zip(batch, rows, found, strict=True):
            array = self._decode(row, stored)
            if array.shape != self.shape:
                sizes = [f"{shape[2]}x{shape[1]}" for shape in (array.shape, self.shape)]
                raise ClatError(
                    f"row {row} of {self.where} is {sizes[0]} pixels, the first image {sizes[1]}: give image_size"
                )
            target[...] = array
        return torch.from_numpy(batch)

    def _decode(self, row: int, stored: dict[str, Any] | None) -> np.ndarray:
        data, path = (stored or {}).get("bytes"), (stored or {}).get("path")
        if data is None and (path is None or self.root is None):
            raise ClatError(f"row {row} of {self.where} holds no image: remove it or put the image in")
        try:
            with open_image(data, path, self.root) as image:
                return to_array(image, self.size)
        except UNREADABLE as error:
            named = f" ({shown(str(path))})" if path else ""
            reason = why_unreadable(error)
            raise ClatError(
                f"cannot read the image in row {row} of {self.where}{named}: {reason}; remove or replace it"
            ) from error
