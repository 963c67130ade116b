"""A regime's rows as they are judged: measured on test images, the best control chosen on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clat.evaluation.bootstrap import CrossedInterval, crossed_interval
from clat.studies.evidence.comparison import CrossedDifference, compare, holm
from clat.studies.evidence.regimes import EvidenceRow

GOAL = {"clean": 0.02, "robust": 0.01}
"""What would count as a gain over the best control, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A row's networks, one a seed, and what was measured of them."""

    row: EvidenceRow
    seeds: tuple[int, ...] = ()
    heldout: tuple[float, ...] = ()
    """Robust accuracy on held-out training images, a seed each."""
    verdicts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """clean and robust -> (S, N), 1 where the network of a seed is right on a test image; empty: not measured."""
    passes: float | None = None
    """Forward and backward passes of a run's training, in samples, the mean over the seeds."""
    failure: str | None = None
    against: Mapping[str, CrossedDifference] = field(default_factory=dict)
    """clean and robust -> the difference to the best control."""
    corrected: Mapping[str, float] = field(default_factory=dict)
    """clean and robust -> p of it, corrected for all forms (Holm)."""

    @property
    def measured(self) -> bool:
        """Return whether there are verdicts."""
        return bool(self.verdicts)

    def interval(self, kind: str) -> CrossedInterval:
        """Return an accuracy with its interval over seeds and images.

        Args:
            kind: clean or robust.
        """
        return crossed_interval(self.verdicts[kind])

    @property
    def gains(self) -> bool:
        """Return whether it passes the best control by the goal in both accuracies, and surely by more than 0."""
        return bool(self.against) and all(
            self.against[kind].value >= least and self.corrected.get(kind, 1.0) < 0.05
            for kind, least in GOAL.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; accuracies in [0, 1]."""
        return {
            "row": self.row.name,
            "control": self.row.control,
            "weights": self.row.weights,
            "seeds": list(self.seeds),
            "heldout_robust": list(self.heldout),
            "passes": self.passes,
            "failure": self.failure,
            **{kind: self.interval(kind).to_dict() for kind in self.verdicts},
            "by_seed": {kind: found.mean(axis=1).tolist() for kind, found in self.verdicts.items()},
            "against_best_control": {
                kind: {**one.to_dict(), "p_corrected": self.corrected.get(kind)}
                for kind, one in self.against.items()
            },
            "gains": self.gains,
        }


def best_control(found: Sequence[Judged]) -> Judged | None:
    """Return the control with the highest robust accuracy on held-out images, the mean over its seeds.

    Args:
        found: rows; those that have not all been measured are left out.

    Returns:
        The control; None if there is none yet.
    """
    ready = [one for one in found if one.row.control and one.measured and one.heldout]
    return max(ready, key=lambda one: fmean(one.heldout), default=None)


def best_form(found: Sequence[Judged]) -> Judged | None:
    """Return the form of CLAT with the highest robust accuracy on held-out images, the mean over its seeds.

    Args:
        found: rows; those that have not all been measured are left out.

    Returns:
        The form; None if there is none yet.
    """
    ready = [one for one in found if not one.row.control and one.measured and one.heldout]
    return max(ready, key=lambda one: fmean(one.heldout), default=None)


def judge(found: Sequence[Judged]) -> list[Judged]:
    """Return the rows with their differences to the best control, those of the forms corrected for their number.

    Args:
        found: rows as measured.

    Returns:
        The same rows in the same order.
    """
    control = best_control(found)
    if control is None:
        return list(found)
    judged = [replace(one, against=_against(one, control)) for one in found]
    tests = [
        (place, kind, one.against[kind].p)
        for place, one in enumerate(judged)
        if not one.row.control
        for kind in one.against
    ]
    by_row: dict[int, dict[str, float]] = {}
    for (place, kind, _), p in zip(tests, holm([p for _, _, p in tests]), strict=True):
        by_row.setdefault(place, {})[kind] = p
    return [replace(one, corrected=by_row.get(place, {})) for place, one in enumerate(judged)]


def _against(one: Judged, control: Judged) -> dict[str, CrossedDifference]:
    """Return the differences of a row to the control, over the seeds that both have."""
    shared = [seed for seed in one.seeds if seed in control.seeds]
    if one is control or not one.measured or not shared:
        return {}
    mine, theirs = ([row.seeds.index(seed) for seed in shared] for row in (one, control))
    return {kind: compare(one.verdicts[kind][mine] - control.verdicts[kind][theirs]) for kind in one.verdicts}
