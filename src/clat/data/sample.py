"""A part of a set that stands for the whole of it, also where the set lists its images class by class."""

from __future__ import annotations

import torch
from torch import Tensor


def lists_by_class(labels: Tensor) -> bool:
    """Return whether images are in the order of their classes, as in a folder of class folders.

    Args:
        labels: of all images, in their order, (N,) int64, at least 0.

    Returns:
        True where the labels rise, or the share of neighbours of one class is nearer to 1 than to that by chance.
    """
    if len(labels) < 2 or bool((labels == labels[0]).all()):
        return False
    before, after = labels[:-1], labels[1:]
    chance = float((labels.bincount() / len(labels)).square().sum())
    same = float((before == after).float().mean())
    return bool((before <= after).all()) or same > (1 + chance) / 2


def sample_ids(labels: Tensor, n: int) -> Tensor:
    """Return the numbers of n images: the first, as results are reported on, or of each class its share.

    The latter where the images are listed class by class, of which the first would be a few classes alone.

    Args:
        labels: of all images, (N,) int64.
        n: 0 to N.

    Returns:
        Rising numbers, (n,) int64.

    >>> sample_ids(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]), 3).tolist()
    [0, 3, 6]
    """
    if not 0 < n < len(labels) or not lists_by_class(labels):
        return torch.arange(n)
    spaced = torch.arange(n) * len(labels) // n  # evenly along the classes: so each gets its share
    return labels.argsort(stable=True)[spaced].sort().values


def sample_notes(ids: Tensor, total: int, where: str) -> tuple[str, ...]:
    """Return what a reader has to know of a sample: nothing where it is the first images.

    Args:
        ids: as `sample_ids` returns them.
        total: how many images there are.
        where: what they are of.

    Returns:
        One line, or none.
    """
    if len(ids) == 0 or int(ids[-1]) == len(ids) - 1:
        return ()
    return (
        f"{where} lists its images class by class: of {total:,}, {len(ids):,} are taken, each class by its share",
    )
