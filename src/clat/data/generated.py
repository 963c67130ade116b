"""Extra images from a generative model, in the `.npz` files of Rebuffi et al. 2021 and Wang et al. 2023."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clat.core.errors import ClatError, first_line
from clat.data.cache import data_root
from clat.data.imageset import ImageSet

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_FLOOR, _GROWTH = 2**28, 100
"""Bytes that any array may unpack to, and how many times its packed size a larger one may."""


@dataclass(frozen=True, eq=False)
class Extra:
    """Images that fill a part of every training batch, drawn anew for each, with replacement.

    Raises:
        ClatError: a fraction outside (0, 1), or images that are not resident.
    """

    images: ImageSet
    fraction: float = 0.7
    """Their part of a batch, in (0, 1), rounded down to whole images."""

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if not isinstance(self.images.images, Tensor):
            raise ClatError(f"extra images '{self.images.name}' are decoded on demand: load() them first")

    def per_batch(self, batch_size: int) -> int:
        """Return how many of them are in a batch, at least 1.

        Args:
            batch_size: images of the whole batch, over all processes.

        Returns:
            fraction * batch_size, rounded down, of the fraction as it is written: 0.29 of 100 are 29.

        Raises:
            ClatError: the fraction of the batch is less than an image.
        """
        count = math.floor(batch_size * Fraction(repr(float(self.fraction))))
        if count == 0:
            raise ClatError(f"{self.fraction} of batch_size {batch_size} is no extra image: raise one of the two")
        return count

    def fill(self, own: Tensor, batch_size: int, offset: int, generator: torch.Generator) -> Tensor:
        """Return the indices of a full batch in random order: `own`, and `offset` + j for extra image j.

        Args:
            own: int64, 1-D, the indices of the batch's own images.
            batch_size: images of the whole batch, at least as many as `own`.
            offset: how many images the training set has.
            generator: on the CPU; it draws the extra images, with replacement, and then the order.

        Returns:
            int64, shape (batch_size,).
        """
        drawn = torch.randint(len(self.images), (batch_size - len(own),), generator=generator)
        batch = torch.cat([own, offset + drawn])
        return batch[torch.randperm(batch_size, generator=generator)]

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels and labels of extra images, on the CPU: a set of many gigabytes can stay on disk.

        Args:
            indices: int64, shape (B,), each in [0, number of extra images).

        Returns:
            uint8 images, shape (B, C, H, W), and int64 labels, shape (B,).
        """
        assert isinstance(self.images.images, Tensor)
        return self.images.images[indices], self.images.labels[indices]


def check_fraction(fraction: float) -> None:
    """Raise an error unless both kinds of images are in a batch.

    Args:
        fraction: the extra images' part of a batch.

    Raises:
        ClatError: it is not between 0 and 1, both excluded.
    """
    if not 0 < fraction < 1:
        raise ClatError(f"the fraction of extra images is {fraction}: expected one between 0 and 1")


def open_generated(file: str | Path, like: ImageSet) -> ImageSet:
    """Open extra training images.

    Args:
        file: an `.npz` with ``image``, uint8, shape (M, H, W, C), and ``label``, integers, shape (M,). A path, or
            the name of a file in `data_root`.
        like: the training set, whose image size and classes it must share.

    Returns:
        A set whose pixels stay on disk and are read when asked for if the file is not compressed (what
        `numpy.savez` writes, and the published files are); a compressed one is read into memory.

    Raises:
        ClatError: no such file, not an `.npz`, an array missing, of another type or shape, or a label outside the
            classes.
    """
    path = Path(file)
    path = data_root() / path if not path.exists() and (data_root() / path).exists() else path
    if not path.is_file():
        raise ClatError(f"extra images: no file {path}, and none of that name in {data_root()}")
    try:
        images, labels = _array(path, "image"), _array(path, "label")
    except ClatError:
        raise
    except _UNREADABLE as error:
        raise ClatError(f"extra images: {path} is no readable .npz file: {first_line(error)}") from None
    channels, height, width = like.shape
    wanted = (height, width, channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted or len(images) == 0:
        raise ClatError(
            f"extra images: 'image' in {path} is {images.dtype} of shape {images.shape},"
            f" expected uint8 of shape (N, {height}, {width}, {channels}) as in '{like.name}'"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise ClatError(
            f"extra images: 'label' in {path} is {labels.dtype} of shape {labels.shape},"
            f" expected integers of shape ({len(images)},)"
        )
    return ImageSet(
        name=path.name,
        split="extra",
        class_names=like.class_names,
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        labels=torch.from_numpy(labels.astype(np.int64)),
        description=f"from {path}",
    )


def _array(path: Path, name: str) -> np.ndarray:
    """Return one array of an `.npz`: mapped from the file where it is stored uncompressed, else read."""
    with zipfile.ZipFile(path) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        if name not in names:
            raise ClatError(
                f"extra images: {path} has no array '{name}' (it has {', '.join(names) or 'none'}):"
                " expected 'image' and 'label'"
            )
        info = archive.getinfo(f"{name}.npy")
        if info.file_size > max(_FLOOR, _GROWTH * info.compress_size):
            raise ValueError(f"'{name}' would unpack to {info.file_size:,} bytes from {info.compress_size:,}")
        with archive.open(info) as member:
            major = np.lib.format.read_magic(member)[0]
            read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
            shape, by_column, dtype = read_header(member)
            header = member.tell()
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects")
    if header + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError(f"'{name}' is of another size than its header says")
    if info.compress_type == zipfile.ZIP_STORED and not by_column and header < info.file_size:
        # "c": PyTorch warns of arrays that cannot be written to; nothing is, and no change would be saved.
        return np.memmap(path, dtype=dtype, mode="c", offset=_start(path, info) + header, shape=shape)
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: after its local header, which tells how long its last fields are."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        return info.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
