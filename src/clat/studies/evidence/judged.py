"""A regime's rows as they are judged: measured on test images, the best control chosen on held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clat.evaluation.bootstrap import CrossedInterval, crossed_interval
from clat.studies.evidence.comparison import LEVEL, CrossedDifference, compare, holm
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
    step: float | None = None
    """The time of a step of its CLAT, over that of X's step before it; None: it has no CLAT."""
    complete: bool = False
    """All seeds that were asked for are trained and measured; else it is compared with nothing."""
    failure: str | None = None
    against: Mapping[str, CrossedDifference] = field(default_factory=dict)
    """clean and robust -> the difference to the best control."""
    corrected: float | None = None
    """Of a form: `p`, corrected for the number of forms (Holm)."""

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
    def p(self) -> float | None:
        """Return the p of both differences being there: the larger of theirs (intersection-union)."""
        return max(one.p for one in self.against.values()) if self.against else None

    @property
    def exceeds(self) -> bool:
        """Return whether it passes the best control by the goal in both accuracies, and by more than chance."""
        return (
            self.p is not None
            and self.p < LEVEL
            and all(self.against[kind].value >= least for kind, least in GOAL.items())
        )

    @property
    def gains(self) -> bool:
        """Return whether it exceeds the best control by steps that cost less than X's."""
        return self.exceeds and self.step is not None and self.step < 1

    @property
    def would_be_seen(self) -> bool:
        """Return whether true differences as large as the goal would have been found with a probability of 80 %."""
        return bool(self.against) and all(self.against[kind].detectable <= least for kind, least in GOAL.items())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; accuracies in [0, 1]."""
        return {
            "row": self.row.name,
            "control": self.row.control,
            "weights": self.row.weights,
            "seeds": list(self.seeds),
            "heldout_robust": list(self.heldout),
            "passes": self.passes,
            "step": self.step,
            "complete": self.complete,
            "failure": self.failure,
            **{kind: self.interval(kind).to_dict() for kind in self.verdicts},
            "by_seed": {kind: found.mean(axis=1).tolist() for kind, found in self.verdicts.items()},
            "against_best_control": {kind: one.to_dict() for kind, one in self.against.items()},
            "p": self.p,
            "p_corrected": self.corrected,
            "gains": self.gains,
        }


def best_control(found: Sequence[Judged]) -> Judged | None:
    """Return the control with the highest robust accuracy on held-out images, the mean over its seeds.

    Args:
        found: rows; those that are not complete are left out.

    Returns:
        The control; None if there is none yet.
    """
    return _best(one for one in found if one.row.control)


def best_form(found: Sequence[Judged]) -> Judged | None:
    """Return the finalist: the form of CLAT with the highest robust accuracy on held-out images.

    Args:
        found: rows; those that are not complete are left out.

    Returns:
        The form, by the mean over its seeds; None if there is none yet.
    """
    return _best(one for one in found if not one.row.control)


def _best(found: Iterable[Judged]) -> Judged | None:
    return max((one for one in found if one.complete), key=lambda one: fmean(one.heldout), default=None)


def judge(found: Sequence[Judged]) -> list[Judged]:
    """Return the rows with their differences to the best control, the p of the forms corrected for their number.

    Args:
        found: rows as measured.

    Returns:
        The same rows in the same order.
    """
    control = best_control(found)
    if control is None:
        return list(found)
    judged = [replace(one, against=_against(one, control)) for one in found]
    tests = {place: one.p for place, one in enumerate(judged) if not one.row.control and one.p is not None}
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [replace(one, corrected=corrected.get(place)) for place, one in enumerate(judged)]


def _against(one: Judged, control: Judged) -> dict[str, CrossedDifference]:
    """Return the differences of a row to the control, both with all their seeds."""
    if one is control or not one.complete:
        return {}
    return {kind: compare(mine - control.verdicts[kind]) for kind, mine in one.verdicts.items()}
