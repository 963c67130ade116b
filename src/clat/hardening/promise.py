"""Keeping a promise on clean accuracy: the most robust point between the weights at the start and at the end.

    theta_a = (1 - a) theta_start + a theta_end,    a in {0, 0.1, ..., 1}

BatchNorm statistics between the two are counted anew on training images, as those of an average of networks are no
average. Everything is judged on held-out images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from clat.network.exchange import put, tensors_of
from clat.treatments.interpolation import ALPHAS, LinePoint, interpolate
from clat.treatments.statistics import reestimate_batch_norm


def most_robust_within(points: Iterable[LinePoint], max_clean_drop: float) -> LinePoint | None:
    """Return the point with the highest robust accuracy that loses at most `max_clean_drop` of the clean accuracy.

    Args:
        points: points of the line, the one at alpha 0 among them.
        max_clean_drop: a share in [0, 1].

    Returns:
        Of equals the one with more clean accuracy, then the one nearest to the start; None where no point beyond
        the start holds the promise.
    """
    points = sorted(points)
    floor = points[0].clean - max_clean_drop - 1e-9  # accuracies are ratios of counts
    allowed = [point for point in points if point.clean >= floor and point.alpha > 0]
    if not allowed:
        return None
    return max(allowed, key=lambda point: (point.robust, point.clean, -point.alpha))


def walk_line(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    batches: Callable[[], Iterable[Tensor]],
    judge: Callable[[], tuple[float, float]],
    alphas: Sequence[float] = ALPHAS,
) -> list[LinePoint]:
    """Measure the points of the line between two states of a network.

    Args:
        model: ends with the weights of the last point.
        start: its tensors at alpha 0.
        end: its tensors at alpha 1.
        batches: training images to count BatchNorm statistics on, (N, C, H, W) each.
        judge: returns clean and robust accuracy of the network as it stands, each in [0, 1].
        alphas: the points, each in [0, 1].

    Returns:
        The points in the order of `alphas`, with their accuracies.
    """
    found = []
    for alpha in alphas:
        set_point(model, start, end, alpha, batches)
        found.append(LinePoint(alpha, *judge()))
    return found


def set_point(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    alpha: float,
    batches: Callable[[], Iterable[Tensor]],
) -> None:
    """Give the network the weights at `alpha`, with BatchNorm statistics that fit them.

    Args:
        model: is changed in place.
        start: its tensors at alpha 0.
        end: its tensors at alpha 1.
        alpha: the place on the line, in [0, 1]; both ends keep their own statistics.
        batches: training images to count BatchNorm statistics on, (N, C, H, W) each.
    """
    put(tensors_of(model), interpolate(start, end, alpha))
    if 0 < alpha < 1:
        reestimate_batch_norm(model, batches())
