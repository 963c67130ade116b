"""The finalist against its control on test images, by networks of seeds that chose neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clat.evaluation.crossed import CrossedInterval, accuracy_interval
from clat.studies.evidence.comparison import LEVEL, TAIL, CrossedDifference, compare
from clat.studies.evidence.screening import GOAL, Screened
from clat.studies.paper.cells import points

Verdicts = Mapping[str, NDArray[np.float64]]
"""clean and robust -> (S, N), 1 where the network of a seed is right on a test image."""
LEAST_SEEDS = 2
"""With fewer nothing is known of how seeds differ, and nothing is settled."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Two rows measured alike, seed by seed and image by image."""

    control: Screened
    form: Screened
    seeds: tuple[int, ...]
    missing: tuple[int, ...] = ()
    """Further seeds that were asked for, of which one of the two could not be trained or measured."""
    protocol: str
    by_control: Verdicts
    by_form: Verdicts
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Row -> what its networks warned of while they were trained."""

    def accuracy(self, verdicts: Verdicts, kind: str) -> CrossedInterval:
        """Return an accuracy with its interval over seeds and images.

        Args:
            verdicts: of one of the two rows.
            kind: clean or robust.
        """
        return accuracy_interval(verdicts[kind])

    @cached_property  # asked for by every sentence
    def differences(self) -> dict[str, CrossedDifference]:
        """Return clean and robust -> the form less the control."""
        return {kind: compare(self.by_form[kind] - self.by_control[kind]) for kind in GOAL}

    @property
    def replicated(self) -> bool:
        """Return whether there are seeds enough for a verdict on methods; one seed speaks of two networks."""
        return len(self.seeds) >= LEAST_SEEDS

    @property
    def p(self) -> float:
        """Return the p of both differences being there: the larger (intersection-union); of one seed 1."""
        return max(one.p for one in self.differences.values()) if self.replicated else 1.0

    @property
    def exceeds(self) -> bool:
        """Return whether the form passes the control by the goal in both accuracies, and by more than chance."""
        found = self.differences
        return self.p < LEVEL and all(found[kind].value >= least for kind, least in GOAL.items())

    @property
    def falls_short(self) -> bool:
        """Return whether a true difference as large as the goal is excluded in one of the accuracies.

        Where both true differences are as large as the goal, it says so in one case of forty at most.
        """
        found = self.differences
        return self.replicated and any(found[kind].bound < least for kind, least in GOAL.items())

    def by_seed(self) -> str:
        """Return the differences of every seed, in points."""
        told = []
        for place, seed in enumerate(self.seeds):
            of = [
                f"{points(100 * float((self.by_form[kind][place] - self.by_control[kind][place]).mean()))} {kind}"
                for kind in GOAL
            ]
            told.append(f"seed {seed} {', '.join(of)}")
        return f"{self.protocol}, less the control: {'; '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; accuracies and differences in [0, 1] and [-1, 1]."""
        rows = {"control": (self.control, self.by_control), "form": (self.form, self.by_form)}
        return {
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "missing": list(self.missing),
            **{
                name: {
                    "row": one.row.name,
                    **{kind: self.accuracy(verdicts, kind).to_dict() for kind in GOAL},
                    "by_seed": {kind: verdicts[kind].mean(axis=1).tolist() for kind in GOAL},
                }
                for name, (one, verdicts) in rows.items()
            },
            "differences": {kind: one.to_dict() for kind, one in self.differences.items()},
            "bound_confidence": 1 - TAIL,
            "p": self.p,
            "exceeds": self.exceeds,
            "falls_short": self.falls_short,
            "warnings": {name: list(texts) for name, texts in self.warnings.items()},
        }
