"""Images that are not in memory, and batches of them from worker processes.

Measured on two cores, 50,000 CIFAR-10 images (lossless WebP, 32x32): one process 6.7 s, two DataLoader
workers 3.4 s, two threads 9.5 to 12 s, since so small an image spends its time in Python, under the
interpreter lock. So batches are decoded in worker processes, by the one path that both resident and lazy sets
use.
"""

from __future__ import annotations

import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from clat.core.errors import ClatError


class LazyImages(ABC):
    """Images that stay where they are until they are asked for."""

    shape: tuple[int, ...]
    """(C, H, W) of every image."""
    dtype: torch.dtype = torch.uint8
    """uint8, values 0 to 255; or float32, values in [0, 1]."""

    at_hand: bool = False
    """True where reading takes no work that processes could share."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def subset(self, indices: torch.Tensor) -> LazyImages:
        """Return the images at `indices` (int64, 1-D, in range), still unread."""

    @abstractmethod
    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        """Read the images at `indices`.

        Args:
            indices: int64, 1-D, in range.
            place: seed and epoch of whoever asks. Images that are random are drawn for that place and their row
                alone, so that the same place gives the same images.

        Returns:
            A new tensor, shape (len(indices), C, H, W), of type `dtype`.

        Raises:
            ClatError: an image that cannot be read, or differs in size from the first; its row is named.
        """


class FloatImages(LazyImages):
    """Images in memory that are no multiples of 1/255: float32 in [0, 1], shape (N, C, H, W)."""

    dtype = torch.float32
    at_hand = True

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels, self.shape = pixels, tuple(pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: torch.Tensor) -> FloatImages:
        return FloatImages(self.pixels[indices])

    def fetch(self, indices: torch.Tensor, place: tuple[int, ...] = ()) -> torch.Tensor:
        return self.pixels[indices]


class _Batches(Dataset):
    """Batches by their index tensor. Errors travel back as values: a DataLoader would add its traceback."""

    def __init__(self, images: LazyImages, place: tuple[int, ...]) -> None:
        self.images, self.place = images, place

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor | ClatError:
        try:
            return self.images.fetch(indices, self.place)
        except ClatError as error:
            return ClatError(str(error))


def decoded_batches(
    images: LazyImages,
    batches: Sequence[torch.Tensor],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    place: tuple[int, ...] = (),
) -> Iterator[torch.Tensor]:
    """Read each index tensor of `batches`, in order, in `workers` processes (0: in this one).

    The global random state is untouched: the DataLoader, which draws a seed for its workers, is given a generator
    of its own.

    Args:
        images: where they are read from.
        batches: one index tensor a batch.
        workers: processes.
        pin_memory: for an accelerator.
        place: as for `LazyImages.fetch`.

    Yields:
        Batches as `LazyImages.fetch` gives them.
    """
    loader = DataLoader(
        _Batches(images, place),
        batch_size=None,
        sampler=batches,
        num_workers=0 if images.at_hand or len(batches) < 2 else min(workers, len(batches)),
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, ClatError):
            raise batch
        yield batch


def default_workers(most: int = 8) -> int:
    """Return how many decoding processes suit this machine.

    It is 0 with a single core, in a process that may have no children, and where processes start by importing the
    main script again (Windows, macOS), which is a surprise to a script that did not ask for it.

    Args:
        most: the largest number.

    Returns:
        The usable cores, at most `most`; 0 where none would do.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forks = multiprocessing.get_all_start_methods()[0] == "fork"
    return min(cores, most) if cores > 1 and forks and not multiprocessing.current_process().daemon else 0
