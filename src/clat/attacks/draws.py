"""A batch taken in parts, and random numbers that are the same for each of its images all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import torch
from torch import Tensor

_part: ContextVar[tuple[int, int] | None] = ContextVar("part of a batch", default=None)


def batch_parts(count: int, most: int | None) -> list[slice]:
    """Return the parts of a batch, of sizes as even as possible.

    Args:
        count: images of the batch; of none there is one part.
        most: images of a part, at most; None: there is one part.

    Returns:
        Slices that cover the batch in order.
    """
    number = 1 if most is None else max(1, -(-count // most))
    ends = [count * k // number for k in range(number + 1)]
    return [slice(first, end) for first, end in pairwise(ends)]


@contextmanager
def part_of_batch(first: int, total: int) -> Iterator[None]:
    """Draw random numbers inside as if the images at hand were part of a larger batch.

    What is drawn for n images is drawn for `total`, of which they are the images `first` to `first` + n - 1: with
    one seed they get the numbers that they would have in the whole batch.

    Args:
        first: the place of the part's first image in the batch.
        total: images of the whole batch.
    """
    token = _part.set((first, total))
    try:
        yield
    finally:
        _part.reset(token)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return uniform numbers in [0, 1), like `x`.

    Args:
        x: gives shape, type and device; its first axis is the batch, or a part of one (`part_of_batch`).
        generator: where they come from.

    Returns:
        Random numbers of the shape of `x`.
    """
    return _drawn(torch.rand, x, generator)


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers, like `x`.

    Args:
        x: gives shape, type and device; its first axis is the batch, or a part of one (`part_of_batch`).
        generator: where they come from.

    Returns:
        Random numbers of the shape of `x`.
    """
    return _drawn(torch.randn, x, generator)


def _drawn(sample: Callable[..., Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
    first, total = _part.get() or (0, len(x))
    drawn = sample((total, *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype)
    return drawn[first : first + len(x)]
