"""A regime's rows on held-out training images, and the two that are chosen there: the finalist and its control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from clat.studies.evidence.regimes import EvidenceRow

GOAL = {"clean": 0.02, "robust": 0.01}
"""What would count as a gain over the control, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """A row's networks, one a seed, and their accuracies on held-out training images."""

    row: EvidenceRow
    heldout: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """clean and robust -> accuracies in [0, 1], a seed each; empty: nothing is trained."""
    passes: float | None = None
    """Forward and backward passes of a run's training, in samples, the mean over the seeds."""
    step: float | None = None
    """The time of a step of its last stage over that of X's before it, measured in turns; None: it has no CLAT."""
    complete: bool = False
    """All seeds that were asked for are trained; else it is not chosen."""
    failure: str | None = None
    warnings: tuple[str, ...] = ()
    """What its networks warned of while they were trained, such as catastrophic overfitting."""

    def mean(self, kind: str) -> float:
        """Return an accuracy over the seeds, in [0, 1].

        Args:
            kind: clean or robust.
        """
        return fmean(self.heldout[kind])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; accuracies in [0, 1]."""
        return {
            "row": self.row.name,
            "control": self.row.control,
            "weights": self.row.weights,
            "heldout": {kind: list(values) for kind, values in self.heldout.items()},
            "passes": self.passes,
            "step": self.step,
            "complete": self.complete,
            "failure": self.failure,
            "warnings": list(self.warnings),
        }


def headroom(form: Screened, control: Screened) -> float:
    """Return by how much a form passes the goal over a control, in the accuracy in which it passes it by less.

    Args:
        form: a form of CLAT.
        control: what it is held against.

    Returns:
        The smaller of the two margins, in [-1, 1].
    """
    return min(form.mean(kind) - control.mean(kind) - least for kind, least in GOAL.items())


def finalist(found: Sequence[Screened]) -> Screened | None:
    """Return the form whose smallest headroom over any control is the largest, among those whose step costs less.

    Args:
        found: rows; those that are not complete are left out.

    Returns:
        The form; None if no form or no control is complete, or no step costs less than X's.
    """
    controls = _controls(found)
    forms = [one for one in found if one.complete and not one.row.control and one.step is not None and one.step < 1]
    if not controls:
        return None
    return max(forms, key=lambda form: min(headroom(form, one) for one in controls), default=None)


def control_to_beat(found: Sequence[Screened], form: Screened) -> Screened:
    """Return the control over which a form has the smallest headroom.

    Args:
        found: rows, at least one of them a complete control.
        form: the finalist.

    Returns:
        The control.
    """
    return min(_controls(found), key=lambda control: headroom(form, control))


def _controls(found: Sequence[Screened]) -> list[Screened]:
    return [one for one in found if one.complete and one.row.control]
