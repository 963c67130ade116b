"""How several processes share the images of an evaluation: shares of falling size, each taken when one is free.

An image that withstands everything costs a hundred times one that is fooled at once, so that shares dealt
beforehand leave processes waiting for the one that has the robust images. Here each share is a random part of the
images, and the last ones are small.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from clat.core.seeds import permutation

SMALLEST = 8
"""Images of a share: fewer are not worth their forward passes."""

_calls = itertools.count()


def cut_shares(count: int, world: int, largest: int) -> list[Tensor]:
    """Return the places of `count` images, share by share, each (M,) int64 and rising.

    One process takes all in order, at most `largest` at a time, as much as memory holds. For `world` processes a
    share is a 2 * world-th of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987), of images in
    an order that depends on `count` alone, so that a resumed evaluation finds the same shares again.
    """
    places = torch.arange(count)
    if world == 1:
        return [part for part in places.split(largest) if len(part)]
    mixed, shares, begin = permutation(count, "evaluation-shares"), [], 0
    smallest = min(largest, max(SMALLEST, count // (16 * world)))
    while begin < count:
        size = min(max(smallest, -(-(count - begin) // (2 * world))), largest)
        shares.append(mixed[begin : begin + size].sort().values)
        begin += size
    return shares


class Shares:
    """The numbers of the shares that this process takes, one at a time; all processes must build it together.

    The first ones are taken by rank, so that each process has one where there are enough.
    """

    def __init__(self, count: int, rank: int, world: int) -> None:
        self.count, self.rank, self.world = count, rank, world
        self._key = f"clat-shares-{next(_calls)}"

    def __iter__(self) -> Iterator[int]:
        number = self.rank
        while number < self.count:
            yield number
            number = self._next(1) if self.world > 1 else number + 1

    def give_up(self) -> None:
        """Let the other processes find no further share."""
        if self.world > 1:
            self._next(self.count)

    def _next(self, step: int) -> int:
        """Add to the counter that all processes have in common, and return the share's number before."""
        # torch.distributed has no public name for the store through which its processes met.
        store = dist.distributed_c10d._get_default_store()
        return self.world - step + int(store.add(self._key, step))
