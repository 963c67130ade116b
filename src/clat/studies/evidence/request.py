"""What of a regime is run, and how its two chosen rows are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clat.studies.evidence.regimes import Regime
from clat.studies.paper.lines import Measure
from clat.studies.paper.methods import EPS
from clat.studies.paper.store import Store

DECIDING, BESIDE = "cr", "clat-pgd-10"
"""The protocol whose verdicts are tested, and the paper's, which stands beside it."""


@dataclass(frozen=True, kw_only=True)
class Finals:
    """How the two chosen rows are measured once more; it decides nothing."""

    protocol: str
    samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """What of a regime is run, and where."""

    regime: Regime
    store: Store
    console: Console
    finals: Finals | None = None

    @property
    def measures(self) -> list[Measure]:
        """Return how the two chosen rows are measured, what decides first."""
        size = self.store.scale.test_size
        found = [Measure(protocol=name, eps=EPS, samples=size) for name in (DECIDING, BESIDE)]
        last = self.finals
        return found if last is None else [*found, Measure(protocol=last.protocol, eps=EPS, samples=last.samples)]

    def folder(self, out: Path) -> Path:
        """Return the folder of the table.

        Args:
            out: the folder above it.
        """
        return out / f"evidence-{self.regime.name}"
