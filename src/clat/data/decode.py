"""From stored image files to uint8 batches, on demand.

Measured on two cores, 50,000 CIFAR-10 images (lossless WebP, 32x32): one process 6.7 s, two DataLoader
workers 3.4 s, two threads 9.5 to 12 s, since so small an image spends its time in Python, under the
interpreter lock. So batches are decoded in worker processes, by the one path that both resident and lazy sets
use.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from clat.core.errors import ClatError
from clat.data.image_files import UNREADABLE, open_image, to_array, why_unreadable
from clat.data.tree import shown


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
        """Return some of the images, sharing the table.

        Args:
            indices: int64, 1-D, each in [0, len(self)).

        Returns:
            The images at `indices`, in that order, still in their files.
        """
        rows = self.rows[indices]
        return LazyImages(
            self.table, self.column, where=self.where, size=self.size, rows=rows, root=self.root, shape=self.shape
        )

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        """Decode the images at `indices`.

        Args:
            indices: int64, 1-D, each in [0, len(self)).

        Returns:
            uint8, shape (len(indices), C, H, W), values 0 to 255.

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
    """Decode each index tensor of `batches`, in order, in worker processes.

    The global random state is untouched: the DataLoader, which draws a seed for its workers, is given a generator
    of its own.

    Args:
        images: the images to decode.
        batches: the indices of each batch, int64, 1-D.
        workers: processes; 0: in this one.
        pin_memory: whether batches lie in page-locked memory, from which a GPU copies faster.

    Yields:
        Batches as `LazyImages.fetch` gives them.

    Raises:
        ClatError: an image that cannot be read, or differs in size from the first.
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
    """Return how many decoding processes suit this machine.

    Args:
        most: an upper bound.

    Returns:
        The usable cores, at most `most`; 0 with a single core, in a process that may have no children, and where
        processes start by importing the main script again (Windows, macOS), which is a surprise to a script that
        did not ask for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forks = multiprocessing.get_all_start_methods()[0] == "fork"
    return min(cores, most) if cores > 1 and forks and not multiprocessing.current_process().daemon else 0
