"""Windows of the Square attack (Andriushchenko et al. 2020): their sides, places and, in l2, their profile."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries of 10,000 after which the share of the image that a window covers is halved (the paper's)."""


@cache
def window_sides(
    queries: int, schedule: int, p_init: float, height: int, width: int, norm: str, device: torch.device
) -> Tensor:
    """Return the side of the first, second, ... window in pixels.

    Args:
        queries: windows to tell of.
        schedule: the number of queries over which windows shrink to their smallest.
        p_init: the share of the image that the first windows cover, in (0, 1].
        height: of the image, in pixels.
        width: of the image, in pixels.
        norm: "linf" or "l2".
        device: where the result is wanted.

    Returns:
        The sides, (queries,) int64; in l2 odd and at least 3, unless the image is smaller.
    """
    sides = []
    for query in range(queries):
        share = p_init / 2 ** bisect_left(HALVINGS, int(query / schedule * 10_000))
        side = round(math.sqrt(share * height * width))
        side = max(side, 1) if norm == "linf" else max(side, 3) | 1
        sides.append(min(side, height, width))
    return torch.tensor(sides, device=device)


def profile(side: int) -> Tensor:
    """Return the l2 attack's bump (the paper's eta).

    A positive upper and a negative lower half, each highest at its centre and falling off with the distance d from
    it as sum_{k > d} 1 / k^2.

    Args:
        side: of the window, in pixels.

    Returns:
        The bump, (side, side) float32 of length 1.
    """
    upper = _half_profile(side // 2, side)
    both = torch.cat([upper, -_half_profile(side - side // 2, side)])
    return both / both.norm()


def _half_profile(height: int, width: int) -> Tensor:
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    bump = terms.flip(0).cumsum(0).flip(0)[torch.maximum(rows[:, None], columns)]
    return bump / bump.norm().clamp_min(1e-12)


class Profiles(NamedTuple):
    """Profiles of all windows of an attack. `sides`: (P,) int64, rising; `bumps`: (P, S, S), zero outside."""

    sides: Tensor
    bumps: Tensor


@cache
def profiles(queries: int, schedule: int, p_init: float, height: int, width: int, device: torch.device) -> Profiles:
    """Return the profile of every window that an l2 attack uses; arguments as for `window_sides`.

    Args:
        queries: windows of the attack.
        schedule: the number of queries over which windows shrink to their smallest.
        p_init: the share of the image that the first windows cover, in (0, 1].
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: where the result is wanted.

    Returns:
        The different sides and their profiles, kept for the next call with the same arguments.
    """
    sides = window_sides(queries, schedule, p_init, height, width, "l2", device).unique()
    largest = int(sides[-1])
    bumps = [F.pad(profile(side), (0, largest - side, 0, largest - side)) for side in sides.tolist()]
    return Profiles(sides, torch.stack(bumps).to(device))


class Window(NamedTuple):
    """One square window for each sample: `top`, `left`, `side`: (N,) int64, in pixels.

    Windows of different sides share tensors of the largest, S: a smaller one's last row and column stand there
    again, so that writing it does no harm; `once` says what to count in a sum.
    """

    top: Tensor
    left: Tensor
    side: Tensor
    offsets: Tensor
    """(N, S) int64: 0, 1, ..., side - 1, side - 1, ..."""

    @classmethod
    def drawn(cls, draws: Tensor, side: Tensor, shape: torch.Size) -> Window:
        """Return windows anywhere in the images.

        Args:
            draws: random numbers in [0, 1), (N, 2), for the top and for the left.
            side: sides in pixels, (N,) int64.
            shape: of the images, (N, C, H, W).

        Returns:
            The windows, one a sample.
        """
        top = (draws[:, 0] * (shape[2] - side + 1)).long()
        left = (draws[:, 1] * (shape[3] - side + 1)).long()
        steps = torch.arange(int(side.max()), device=side.device)
        return cls(top, left, side, steps.minimum(side[:, None] - 1))

    def once(self) -> Tensor:
        """Return which places of the window do not stand there again.

        Returns:
            Flags, (N, S, S) bool.
        """
        own = torch.arange(self.offsets.shape[1], device=self.side.device) < self.side[:, None]
        return own[:, :, None] & own[:, None, :]

    def places(self, shape: torch.Size) -> Tensor:
        """Return the window's places in the flattened sample.

        Args:
            shape: of the images, (N, C, H, W).

        Returns:
            Places, (N, C, S * S) int64.
        """
        rows, columns = self.top[:, None] + self.offsets, self.left[:, None] + self.offsets
        places = (rows[:, :, None] * shape[3] + columns[:, None, :]).flatten(1)
        channels = torch.arange(shape[1], device=places.device) * (shape[2] * shape[3])
        return places[:, None] + channels[:, None]

    def contains(self, other: Window) -> Tensor:
        """Return which places of the other window lie in this one.

        Args:
            other: windows of the same samples, with the same largest side S.

        Returns:
            Flags, (N, S, S) bool.
        """
        down = (other.top - self.top)[:, None] + other.offsets
        across = (other.left - self.left)[:, None] + other.offsets
        rows, columns = ((o >= 0) & (o < self.side[:, None]) for o in (down, across))
        return rows[:, :, None] & columns[:, None, :]
