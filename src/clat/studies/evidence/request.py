"""What of a regime is run, and how its finalists are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clat.studies.evidence.regimes import Regime
from clat.studies.paper.store import Store

PROTOCOL = "clat-pgd-10"
"""By which all rows are measured."""


@dataclass(frozen=True, kw_only=True)
class Finals:
    """How the finalists, the best control and the best form, are measured once more."""

    protocol: str
    samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """What of a regime is run, and where."""

    regime: Regime
    store: Store
    seeds: Sequence[int]
    console: Console
    finals: Finals | None = None

    def folder(self, out: Path) -> Path:
        """Return the folder of the table.

        Args:
            out: the folder above it.
        """
        return out / f"evidence-{self.regime.name}{f'-{self.finals.protocol}' if self.finals else ''}"
