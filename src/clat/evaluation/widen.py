"""Evaluations that go on with more images until an accuracy is known well enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.data import ImageSet
from clat.evaluation.dataset import evaluate_set, join_evaluations
from clat.evaluation.evaluate import Evaluation
from clat.evaluation.finite import count_interval

FIRST = 100
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class SetInterval:
    """An interval of the robust accuracy on a whole set, from a random part of it.

    Attributes:
        robust: how many of the evaluated images withstood.
        n: how many were evaluated.
        of: how many there are.
        confidence: of this look at the interval; where looks came before, all together hold with CONFIDENCE.
    """

    robust: int
    n: int
    of: int
    confidence: float = CONFIDENCE

    @property
    def interval(self) -> tuple[float, float]:
        """Return the bounds of the robust accuracy on all images, in [0, 1]."""
        low, high = count_interval(self.of, self.n, self.robust, self.confidence)
        return low / self.of, high / self.of

    @property
    def width(self) -> float:
        """Return the width of the interval in percentage points."""
        low, high = self.interval
        return 100 * (high - low)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The bounds, what they are of, and their method.
        """
        low, high = self.interval
        return {
            "low": low, "high": high, "n": self.n, "of": self.of,
            "confidence": CONFIDENCE, "confidence_of_last_look": self.confidence,
            "method": "clopper-pearson, hypergeometric: of the accuracy on all of the images",
        }  # fmt: skip


@dataclass(frozen=True)
class PartialEvaluation(SavedAsJson):
    """An evaluation of a random part of a set, and what it says of the whole.

    Attributes:
        evaluation: of the part.
        whole: the interval of the robust accuracy on all images.
        plan: the budget that decided on the part, as plain data; None: a width did.
    """

    evaluation: Evaluation
    whole: SetInterval
    plan: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            That of the evaluation, with the interval of the whole, and the budget's plan if there is one.
        """
        more = {} if self.plan is None else {"budget": self.plan}
        return {**self.evaluation.to_dict(), "robust_accuracy_of_all": self.whole.to_dict(), **more}


def check_width(width: float) -> None:
    """Raise an error unless the width of an interval is one.

    Args:
        width: percentage points.

    Raises:
        ClatError: it is not above 0 and at most 100.
    """
    if not 0 < width <= 100:
        raise ClatError(f"the width is {width}: expected percentage points, more than 0 and at most 100")


def evaluate_until(
    model: nn.Module,
    images: ImageSet,
    order: Tensor,
    width: float,
    *,
    state: str | Path | None = None,
    told: Callable[[SetInterval], None] | None = None,
    **options: Any,
) -> PartialEvaluation:
    """Evaluate more and more images until the interval of the robust accuracy on all of them is narrow enough.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits; it is left as it is.
        images: the set.
        order: the numbers of its images in random order, (N,) int64, `clat.evaluation.budget.random_order`.
        width: of the interval, in percentage points. Looking at it several times spends confidence: the j-th look
            has 1 - 0.05 / (j (j + 1)), so that all of them hold together with 95 %.
        state: a file name from which an interrupted evaluation goes on; each look adds its number.
        told: called with what is known after each look.
        options: of `evaluate_set`: protocol, eps, ...

    Returns:
        The evaluation of all images that were taken, and the interval after the last look.

    Raises:
        ClatError: as `evaluate_set` does, and for a width that is none.
    """
    check_width(width)
    results: list[Evaluation] = []
    done, looks, goal = 0, 0, min(FIRST, len(order))
    while True:
        looks += 1
        file = None if state is None else Path(state).with_name(f"{Path(state).name}.look-{looks}")
        results.append(evaluate_set(model, images, ids=order[done:goal], state=file, **options))
        done = goal
        together = join_evaluations(results, torch.arange(done))
        confidence = 1 - (1 - CONFIDENCE) / (looks * (looks + 1))
        robust = together.robust_accuracy
        whole = SetInterval(robust=robust.correct, n=done, of=len(order), confidence=confidence)
        if told is not None:
            told(whole)
        if whole.width <= width or done == len(order):
            about = {**together.about, "data": {**together.about["data"], "n": done}}
            return PartialEvaluation(replace(together, about=about), whole)
        goal = min(len(order), max(done * 3 // 2, _needed(robust.value, width, len(order))))


def _needed(share: float, width: float, population: int) -> int:
    """Return about how many of the set give an interval of this width: the normal approximation."""
    spread = max(share * (1 - share), 1 / population)
    unlimited = 4 * 2.4**2 * spread / (width / 100) ** 2
    return math.ceil(unlimited / (1 + unlimited / population))
