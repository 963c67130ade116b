"""One stored image file, opened and decoded without trust: usual formats alone, 8 bits, no picture too large."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from clat.core.errors import first_line

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


def to_array(image: Image.Image, size: int | None = None, *, turn: bool = True) -> np.ndarray:
    """Return an image as uint8 RGB; see `to_rgb`.

    Args:
        image: as `open_image` gives it.
        size: pixels. The shorter side is resized to it (bicubic, antialiased) and the centre square is kept; an
            image that already has this size is left untouched. None: nothing is resized.
        turn: whether its EXIF tag is heeded.

    Returns:
        uint8, shape (3, H, W).

    Raises:
        ValueError: as `to_rgb`, or a side that is too long for the memory of a batch, or for resizing.
    """
    if size is None and max(image.size) > LARGEST:
        raise ValueError(
            f"{image.width}x{image.height} pixels are too many for a network: give image_size (--image-size; in"
            " clat train --data.image_size)"
        )
    image = to_rgb(image, turn=turn)
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


def to_rgb(image: Image.Image, *, turn: bool = True) -> Image.Image:
    """Return the image in mode RGB: turned as its EXIF tag says, grey repeated, transparency dropped.

    Args:
        image: in any mode of PIL; it is decoded here.
        turn: whether the tag is heeded. PIL keeps it in images that somebody has decoded and converted, whose
            pixels are what they were meant to be.

    Returns:
        An 8-bit image; its sides are exchanged where the tag asks for a quarter turn.

    Raises:
        ValueError: a mode of more than 8 bits a channel, which PIL would clip rather than scale.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel; store it as 8-bit")
    image.load()
    how = _TURNS.get(_orientation(image)) if turn else None
    if how is not None:
        image = image.transpose(how)
    if image.mode == "P":  # straight to RGB, PIL warns when the palette holds transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the orientation that the EXIF tag of a loaded image says, 1 to 8; 1 where its EXIF cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF ends in exceptions of any kind; the pixels, which are loaded, are sound
        return 1


def open_image(data: bytes | None, path: str | None, root: Path | None) -> Image.Image:
    """Open an encoded image of one of the usual formats: others, as EPS, would run a program.

    Args:
        data: the file's content; None: it is read from its `path`.
        path: the file, absolute or below `root`.
        root: where a path that is not absolute begins.

    Returns:
        The image with its pixels still to be decoded.

    Raises:
        UNREADABLE: not such a file, or one with more pixels than PIL thinks safe.
    """
    file = os.path.join(root or "", str(path)) if data is None else io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of broken EXIF
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file, formats=_formats())


def why_unreadable(error: BaseException) -> str:
    """Return in one line what an error of `open_image` or `to_rgb` says.

    Args:
        error: one of `UNREADABLE`.

    Returns:
        The reason, without a full stop.
    """
    return "not an image file" if isinstance(error, Image.UnidentifiedImageError) else first_line(error)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    usual = "PNG JPEG WEBP BMP DIB GIF TIFF PPM TGA MPO JPEG2000 AVIF"
    return tuple(name for name in usual.split() if name in Image.OPEN)
