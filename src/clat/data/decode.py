"""From stored image files to uint8 batches, on demand.

Measured on two cores, 50,000 CIFAR-10 images (lossless WebP, 32x32): one process 6.7 s, two DataLoader
workers 3.4 s, two threads 9.5 to 12 s, since so small an image spends its time in Python, under the
interpreter lock. So batches are decoded in worker processes, by the one path that both resident and lazy sets
use.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset

from clat.core.errors import ClatError
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
LARGEST = 4096  # pixels a side, of images that are not resized: a batch of larger ones would fill the memory
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
    if size is None and max(image.size) > LARGEST:
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


class LazyImages:
    """Images that stay in their files until asked for: one column of a map-style Hugging Face data set.

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

    def subset(self, indices: torch.Tensor) -> LazyImages:
        """The images at `indices` (int64, 1-D, in range), sharing the table."""
        rows = self.rows[indices]
        return LazyImages(
            self.table, self.column, where=self.where, size=self.size, rows=rows, root=self.root, shape=self.shape
        )

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        """Decodes the images at `indices`: uint8, shape (len(indices), 3, H, W).

        Raises:
            ClatError: an image that cannot be read, or differs in size from the first; its row is named.
        """
        rows = self.rows[indices].tolist()
        batch = np.empty((len(rows), *self.shape), dtype=np.uint8)
        found = self.table[rows][self.column] if rows else ()
        for place, row, stored in zip(batch, rows, found, strict=True):
            array = self._decode(row, stored)
            if array.shape != self.shape:
                sizes = [f"{shape[2]}x{shape[1]}" for shape in (array.shape, self.shape)]
                raise ClatError(
                    f"row {row} of {self.where} is {sizes[0]} pixels, the first image {sizes[1]}: give image_size"
                )
            place[...] = array
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


class _Batches(Dataset):
    """Batches by their index tensor. Errors travel back as values: a DataLoader would add its traceback."""

    def __init__(self, images: LazyImages) -> None:
        self.images = images

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor | ClatError:
        try:
            return self.images.fetch(indices)
        except ClatError as error:
            return ClatError(str(error))


def decoded_batches(
    images: LazyImages, batches: Sequence[torch.Tensor], *, workers: int = 0, pin_memory: bool = False
) -> Iterator[torch.Tensor]:
    """Decodes each index tensor of `batches`, in order, in `workers` processes (0: in this one).

    Yields uint8 batches as `LazyImages.fetch`. The global random state is untouched: the DataLoader, which
    draws a seed for its workers, is given a generator of its own.
    """
    loader = DataLoader(
        _Batches(images),
        batch_size=None,
        sampler=batches,
        num_workers=min(workers, len(batches)),
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, ClatError):
            raise batch
        yield batch


def default_workers(most: int = 8) -> int:
    """How many decoding processes suit this machine: its usable cores, at most `most`; 0 where none would do.

    That is with a single core, in a process that may have no children, and where processes start by importing
    the main script again (Windows, macOS), which is a surprise to a script that did not ask for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forks = multiprocessing.get_all_start_methods()[0] == "fork"
    return min(cores, most) if cores > 1 and forks and not multiprocessing.current_process().daemon else 0


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
