"""Losses that the attacks of an evaluation increase: one number a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clat.core.errors import ClatError

_TINY = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log p_y for each sample.

    Args:
        logits: (N, K).
        y: labels, (N,) int64.

    Returns:
        The cross-entropy, (N,), at least 0.
    """
    return F.cross_entropy(logits, y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein 2020, Eq. 6) for each sample.

    -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)), with z_(i) the i-th largest logit. Free of shift and scale.

    Args:
        logits: (N, K) with K of at least 3.
        y: labels, (N,) int64.

    Returns:
        The ratio, (N,), positive where the sample is misclassified.

    Raises:
        ClatError: for fewer than 3 classes.
    """
    _need(3, logits, "the DLR loss")
    ranked = logits.topk(3, dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein 2020, Eq. 7) for each sample.

    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), with z_(i) the i-th largest logit.

    Args:
        logits: (N, K) with K of at least 4.
        y: labels, (N,) int64.
        target: the classes t to aim at, (N,) int64.

    Returns:
        The ratio, (N,), positive where the target is more likely than the label.

    Raises:
        ClatError: for fewer than 4 classes.
    """
    _need(4, logits, "the targeted DLR loss")
    ranked = logits.topk(4, dim=1).values
    scale = ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3]) + _TINY
    return targeted_margin(logits, y, target) / scale


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{j != y} z_j - z_y for each sample.

    Args:
        logits: (N, K).
        y: labels, (N,) int64.

    Returns:
        The margin in logits, (N,): positive exactly where the sample is misclassified.
    """
    own = logits.gather(1, y[:, None])
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own.squeeze(1)


def carlini_wagner(logits: Tensor, y: Tensor, confidence: float = 50.0) -> Tensor:
    """Return Carlini and Wagner's loss (2017), min(margin - confidence, 0), for each sample.

    It leaves a sample alone once it is misclassified by `confidence`.

    Args:
        logits: (N, K).
        y: labels, (N,) int64.
        confidence: in logits; 50 in CURE's evaluation.

    Returns:
        The loss, (N,), at most 0.
    """
    return (margin(logits, y) - confidence).clamp_max(0)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return z_t - z_y for each sample, which stands in for the targeted DLR with fewer than 4 classes.

    Args:
        logits: (N, K).
        y: labels, (N,) int64.
        target: the classes t to aim at, (N,) int64.

    Returns:
        The margin in logits, (N,), positive where the target is more likely than the label.
    """
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def runner_up(logits: Tensor, y: Tensor, place: int) -> Tensor:
    """Return the `place`-th most likely wrong class of each sample.

    Args:
        logits: (N, K) with K above `place`.
        y: labels, (N,) int64.
        place: counted from 1, the most likely.

    Returns:
        The classes, (N,) int64.

    Raises:
        ClatError: for too few classes.
    """
    _need(place + 1, logits, f"target {place}")
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True)[:, place - 1]


def _need(classes: int, logits: Tensor, what: str) -> None:
    if logits.shape[1] < classes:
        raise ClatError(f"{what} needs at least {classes} classes, the model has {logits.shape[1]}")
