"""A part of a set that stands for the whole of it, also where the set lists its images class by class."""

from __future__ import annotations

import torch
from torch import Tensor

PARTS = 10
IMPROBABLE = 1e-9
"""A mixed order is taken for another one in fewer cases than this."""


def in_mixed_order(labels: Tensor) -> bool:
    """Return whether the first images of a set stand for all of it, as they do in a random order.

    They do not in a folder of class folders, in shards of some classes each, or where a class was appended.

    Args:
        labels: of all images, in their order, (N,) int64, at least 0.

    Returns:
        False where the labels rise, where the share of neighbours of one class is nearer to 1 than to that by
        chance, or where tenths of the set differ in their classes as they never would by chance.
    """
    if len(labels) < 2 or bool((labels == labels[0]).all()):
        return True
    before, after = labels[:-1], labels[1:]
    chance = float((labels.bincount() / len(labels)).square().sum())
    same = float((before == after).float().mean())
    return bool((before > after).any()) and same <= (1 + chance) / 2 and _tenths_agree(labels)


def _tenths_agree(labels: Tensor) -> bool:
    """Return whether the classes of consecutive tenths pass the chi-squared test of homogeneity."""
    classes, which = labels.unique(return_inverse=True)
    part = torch.arange(len(labels)) * PARTS // len(labels)
    seen = (part * len(classes) + which).bincount(minlength=PARTS * len(classes)).view(PARTS, -1).double()
    expected = seen.sum(1, keepdim=True) * seen.sum(0) / len(labels)
    statistic = ((seen - expected).square() / expected.clamp_min(1e-12)).sum()
    freedom = torch.tensor((PARTS - 1) * (len(classes) - 1), dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2)) >= IMPROBABLE


def sample_ids(labels: Tensor, n: int) -> Tensor:
    """Return the numbers of n images: the first, as results are reported on, or of each class its share.

    The latter where the order does not mix the classes, so that the first would be a few classes alone.

    Args:
        labels: of all images, (N,) int64.
        n: how many; where there are fewer, all of them.

    Returns:
        Rising numbers, (n,) int64.

    >>> sample_ids(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]), 3).tolist()
    [0, 3, 6]
    """
    if not 0 < n < len(labels) or in_mixed_order(labels):
        return torch.arange(min(n, len(labels)))
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
        f"{where} does not list its classes in mixed order: of {total:,}, {len(ids):,} are taken, each class "
        "by its share",
    )
