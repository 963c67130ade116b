"""The division of an evaluation's images among processes: shares of falling size, each taken by one that is free.

An image that withstands everything costs a hundred times one that is fooled at once, so that shares dealt
beforehand leave processes waiting for the one that has the robust images. Here each share is a random part of the
images, and the last ones are small (factoring, Hummel et al. 1992).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from clat.core.seeds import permutation
from clat.runtime.patience import common_store

PORTIONS = (0.8, 0.14, 0.06)
"""Parts of the images that are shared out at first, and of what is left over for those who are done first.

Every share is attacked by itself, in smaller batches towards its end, so that many small shares would cost more
than the waiting that they save.
"""
SMALLEST = 8
"""Images of a share: fewer are not worth their forward passes."""

_calls = itertools.count()


def cut_shares(count: int, world: int, largest: int, *, uneven: bool = True) -> list[Tensor]:
    """Cut a set into shares.

    One process takes all in order, as many at a time as memory holds. Several take images in an order that depends
    on their number alone, so that a resumed evaluation finds the same shares again; each has one of every portion,
    if all are equally fast.

    Args:
        count: how many images there are.
        world: how many processes share them.
        largest: so many images of a share, at most.
        uneven: images may differ so much in what they cost that the portions after the first are worth their while;
            otherwise there is one portion, of all images.

    Returns:
        The places of the images, share by share, each (M,) int64 and rising.
    """
    if world == 1:
        return [part for part in torch.arange(count).split(largest) if len(part)]
    mixed, shares, begin = permutation(count, "evaluation-shares"), [], 0
    for portion in PORTIONS if uneven else (1.0,):
        size = max(SMALLEST, math.ceil(count * portion / world))
        for share in mixed[begin : begin + world * size].split(size):
            shares += [part.sort().values for part in share.split(largest)]
        begin += world * size
    return [share for share in shares if len(share)]


class Shares:
    """Yield the numbers of the shares that this process takes, one at a time; all processes must build it together.

    The first ones are taken by rank, so that each process has one where there are enough.

    Attributes:
        count: how many shares there are.
        rank: the number of this process.
        world: how many processes there are.
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
        return self.world - step + int(common_store().add(self._key, step))
