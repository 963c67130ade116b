"""A decoded copy of a set that is too large for memory: one file of pixels, mapped, of which batches are read.

The file is a NumPy array (.npy), uint8, shape (N, 3, H, W), in the images' order. It is made once, by decoding
processes that hand their batches to one writer, beside its place, and moved there in one step. Unlike the copies of
small sets (`clat.data.cache`), which are a convenience, it is asked for: what hinders it is an error.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib import format as npy

from clat.core.errors import ClatError
from clat.core.formatting import memory
from clat.core.notices import notice
from clat.core.progress import SparseLines, tell, to_go
from clat.data.lazy import LazyImages, decoded_batches

BATCH = 64
"""Images that a process decodes at a time: of 224 pixels 10 MB, of which several are under way."""
SPARE = 2**26
"""Bytes that are left free on the disk."""
ELSE = "set CLAT_CACHE_DIR to a folder elsewhere, or leave data.decoded out"


class DecodedImages(LazyImages):
    """Images of a decoded copy. The system reads the pages of the file that are asked for, and may forget them.

    Args:
        path: the copy.
        shape: (C, H, W) of every image.
        rows: the copy's rows that belong to this set, in order, int64.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rows: torch.Tensor) -> None:
        self.path, self.shape, self.rows = path, shape, rows
        self._pixels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # a map travels to another process as all that it maps

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: torch.Tensor) -> DecodedImages:
        return DecodedImages(self.path, self.shape, self.rows[indices])

    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        if self._pixels is None:
            try:
                self._pixels = np.load(self.path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise ClatError(f"the decoded images {self.path} cannot be read: {error}; start again") from None
        return torch.from_numpy(np.array(self._pixels[self.rows[indices].numpy()]))


def decoded_copy(images: LazyImages, path: Path, *, name: str, workers: int = 0) -> DecodedImages:
    """Return the decoded copy of a set, made now unless it is there.

    Of several processes that ask at once, one decodes and the others wait.

    Args:
        images: uint8, as they are stored.
        path: the copy's place, which names all that its content depends on.
        name: what the set is called in messages.
        workers: decoding processes; 0: this one.

    Returns:
        The images, which are read when they are asked for.

    Raises:
        ClatError: the disk has no room, the folder cannot be written to, or an image cannot be decoded.
    """
    shape = (len(images), *images.shape)
    try:
        if not _is_copy(path, shape):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path, name):
                if not _is_copy(path, shape):
                    _write(images, path, name, workers)
    except OSError as error:
        raise ClatError(f"cannot write to {path.parent}: {error.strerror or error}: {ELSE}") from None
    return DecodedImages(path, images.shape, torch.arange(len(images)))


def _is_copy(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether a whole copy of that shape lies there: a file that was cut off has another size."""
    try:
        with path.open("rb") as file:
            npy.read_magic(file)
            found, fortran, dtype = npy.read_array_header_1_0(file)
            whole = file.tell() + math.prod(shape) == os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return False
    return whole and found == shape and dtype == np.uint8 and not fortran


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Keep other processes from making the same copy meanwhile."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        notice(f"another process decodes the images of {name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(images: LazyImages, path: Path, name: str, workers: int) -> None:
    """Decode all images into a file, in order."""
    shape = (len(images), *images.shape)
    size, free = math.prod(shape), shutil.disk_usage(path.parent).free
    part = path.with_suffix(".part")  # of whoever holds the lock: what a killed process left is written over
    if part.exists():
        free += part.stat().st_size
    if size + SPARE > free:
        raise ClatError(
            f"the decoded images of {name} take {memory(size)}, and {path.parent} has {memory(free)} left: {ELSE}"
        )
    notice(f"decoding the {len(images):,} images of {name} once: {memory(size)} in {path}")
    lines, start, done = SparseLines(notice), time.monotonic(), 0
    try:
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            # Written, not mapped: a map on a full disk ends the process without a word.
            for batch in decoded_batches(images, torch.arange(len(images)).split(BATCH), workers=workers):
                file.write(batch.contiguous().numpy().data)
                done += len(batch)
                tell(f"decoding {name}", done, len(images))
                left = (time.monotonic() - start) / done * (len(images) - done)
                said = f"decoding {name}: {done:,}/{len(images):,} images{to_go(left)}"
                lines(lambda said=said: said)  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
