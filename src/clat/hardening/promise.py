"""Keeping a promise on clean accuracy: the most robust point between the weights at the start and at the end.

    theta_a = (1 - a) theta_start + a theta_end,    a in {0, 0.1, ..., 1}

BatchNorm statistics between the two are counted anew on training images, as those of an average of networks are no
average. Everything is judged on held-out images. A few hundred of them tell a loss to within some points only, and
of several points the one that looks best has been lucky: so a point holds the promise where its loss is within it
with a confidence of 90 %, image by image against the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import scipy  # whose parts are loaded where they are used
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.errors import ClatError
from clat.evaluation.statistics import PairedDifference
from clat.network.exchange import put, tensors_of
from clat.treatments.interpolation import ALPHAS, interpolate
from clat.treatments.statistics import reestimate_batch_norm

CONFIDENCE = 0.9
"""One-sided, that a point loses no more than it is said to."""


class PromisePoint(NamedTuple):
    """One point of the line on held-out images; accuracies in [0, 1]."""

    alpha: float
    clean: float
    robust: float
    lost: float
    """Clean accuracy lost against the start, at most (CONFIDENCE)."""


def most_robust_within(points: Iterable[PromisePoint], max_clean_drop: float) -> PromisePoint | None:
    """Return the point with the highest robust accuracy of those that surely lose at most `max_clean_drop`.

    Args:
        points: points of the line.
        max_clean_drop: a share in [0, 1].

    Returns:
        Of equals the one with more clean accuracy, then the one nearest to the start; None where no point beyond
        the start holds the promise.
    """
    allowed = [point for point in points if point.lost <= max_clean_drop and point.alpha > 0]
    return max(allowed, key=lambda point: (point.robust, point.clean, -point.alpha), default=None)


def lost_at_most(start: Tensor, now: Tensor) -> float:
    """Return the clean accuracy that a network has lost, at most, with a confidence of 90 %.

    Args:
        start: which images the start is right on, (N,) bool.
        now: which the network is right on, (N,) bool.

    Returns:
        The one-sided limit of the paired difference, in [-1, 1]; above 0 also where no image has changed. Where few
        images are gained Bonett and Price's is too low, so it is no lower than what Clopper and Pearson's (1934)
        says of the images that are lost, less those that are gained.
    """
    pair = PairedDifference.between(start, now, confidence=2 * CONFIDENCE - 1)
    lost, n = pair.first_only, pair.n
    most = 1.0 if lost == n else float(scipy.stats.beta.ppf(CONFIDENCE, lost + 1, n - lost))
    return max(-pair.interval[0], most - pair.second_only / n)


def refuse_hopeless(max_clean_drop: float, images: int) -> None:
    """Refuse a promise that so few images cannot show to be kept, even by a network that loses on none of them.

    Args:
        max_clean_drop: a share in [0, 1].
        images: held-out images.

    Raises:
        ClatError: The message says how many images would do.
    """
    if (sure := _sure_of(images)) <= max_clean_drop:
        return
    told = f"max_clean_drop is {100 * max_clean_drop:g}: "
    if max_clean_drop == 0:
        raise ClatError(f"{told}no number of images can show that nothing is lost; give a little more, such as 1")
    enough = images
    while _sure_of(enough) > max_clean_drop:
        enough = math.ceil(1.1 * enough)
    raise ClatError(
        f"{told}with {images} held-out images a loss of up to {100 * sure:.1f} points cannot be excluded "
        f"({CONFIDENCE:.0%} confidence), even where none is seen; hold out {enough} (--heldout), or allow more"
    )


def _sure_of(images: int) -> float:
    """Return the loss that cannot be excluded where of so many images none has changed."""
    right = torch.ones(images, dtype=torch.bool)
    return lost_at_most(right, right)


def walk_line(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    batches: Callable[[], Iterable[Tensor]],
    judge: Callable[[], tuple[Tensor, float]],
    alphas: Sequence[float] = ALPHAS,
    *,
    norms: Sequence[_BatchNorm] | None = None,
) -> list[PromisePoint]:
    """Measure the points of the line between two states of a network.

    Args:
        model: ends with the weights of the last point.
        start: its tensors at alpha 0.
        end: its tensors at alpha 1.
        batches: training images to count BatchNorm statistics on, (N, C, H, W) each.
        judge: returns which images the network is right on as it stands, (N,) bool, and its robust accuracy.
        alphas: the points, each in [0, 1], 0 first.
        norms: the BatchNorm modules whose statistics are counted; None: all.

    Returns:
        The points in the order of `alphas`.
    """
    found: list[PromisePoint] = []
    first: Tensor | None = None
    for alpha in alphas:
        set_point(model, start, end, alpha, batches, norms=norms)
        right, robust = judge()
        first = right if first is None else first
        found.append(PromisePoint(alpha, float(right.double().mean()), robust, lost_at_most(first, right)))
    return found


def set_point(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    alpha: float,
    batches: Callable[[], Iterable[Tensor]],
    *,
    norms: Sequence[_BatchNorm] | None = None,
) -> None:
    """Give the network the weights at `alpha`, with BatchNorm statistics that fit them.

    Args:
        model: is changed in place.
        start: its tensors at alpha 0.
        end: its tensors at alpha 1.
        alpha: the place on the line, in [0, 1]; both ends keep their own statistics.
        batches: training images to count BatchNorm statistics on, (N, C, H, W) each.
        norms: the BatchNorm modules whose statistics are counted, the others are on the line too; None: all.
    """
    put(tensors_of(model), interpolate(start, end, alpha))
    if 0 < alpha < 1:
        reestimate_batch_norm(model, batches(), norms)
