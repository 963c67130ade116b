"""AutoLoRa's learning rate: halved where the robust accuracy on held-out images stops rising.

AutoAttack halves its step alike (Xu et al. 2024, after Croce and Hein 2020). The released code for larger images
also stops once the rate is below 1e-5; here a stage keeps its epochs.
"""

from __future__ import annotations

from typing import NamedTuple

RISING = 0.75
"""The share of epochs that must have been better than the one before for the rate to stay (rho)."""

_PUBLISHED = (16, 24, 28, 36, 40, 42, 44, 46, 48, 50)
"""Checkpoints of the released code for CIFAR-sized images, in 50 epochs."""


class Rate(NamedTuple):
    """State of the learning rate after some epochs.

    At the first checkpoint the second rule of `after_epoch` does not hold, as in AutoAttack, for which `halved`
    begins at 1.

    Attributes:
        factor: what the first learning rate is multiplied by.
        best: the highest held-out robust accuracy yet.
        best_before: that at the last checkpoint.
        last: the accuracy of the epoch before, negative before the first.
        rises: epochs since the last checkpoint that were better than the one before.
        compared: epochs since the last checkpoint that have one before them.
        halved: 1 if the rate was halved at the last checkpoint, else 0.
    """

    factor: float = 1.0
    best: float = -1.0
    best_before: float = -1.0
    last: float = -1.0
    rises: float = 0
    compared: float = 0
    halved: float = 1


def after_epoch(rate: Rate, accuracy: float, *, checkpoint: bool) -> Rate:
    """Return the rate after an epoch.

    At a checkpoint the factor is halved if (1) fewer than three quarters of the epochs since the last checkpoint
    were better than the one before, or (2) the rate was not halved at the last checkpoint and the best accuracy has
    not risen since. Training then goes on from the best weights. (The released code forgets the first half of (2)
    by comparing a copied number with itself.)

    Args:
        rate: the state before the epoch.
        accuracy: held-out robust accuracy of the epoch, in [0, 1].
        checkpoint: the rate is looked at now.

    Returns:
        The state after the epoch.
    """
    comparable = rate.last >= 0
    rate = rate._replace(
        best=max(rate.best, accuracy),
        last=accuracy,
        rises=rate.rises + (comparable and accuracy > rate.last),
        compared=rate.compared + comparable,
    )
    if not checkpoint:
        return rate
    stale = not rate.halved and rate.best == rate.best_before
    halve = rate.rises < RISING * rate.compared or stale
    return rate._replace(
        factor=rate.factor / 2 if halve else rate.factor,
        best_before=rate.best,
        rises=0,
        compared=0,
        halved=float(halve),
    )


def published_checkpoints(epochs: int) -> tuple[int, ...]:
    """Return the released code's checkpoints, stretched to the stage's epochs.

    One after the last epoch changes nothing and is left out.

    Args:
        epochs: epochs of the stage.

    Returns:
        Rising epochs, counted from 0, after which the rate is looked at.
    """
    return tuple(sorted({mark for mark in (round(m * epochs / 50) for m in _PUBLISHED) if 0 < mark < epochs - 1}))
