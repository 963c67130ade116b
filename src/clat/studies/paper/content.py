"""What each kind of table gives: rows to show, data to keep, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Content:
    """One table's contents, whatever its kind."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    entries: Sequence[Mapping[str, Any]]
    """The rows as plain data."""
    caption: str
    notes: Sequence[tuple[str, str]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    """More that belongs into table.json."""
    outcome: str = ""
    """What came out, in a sentence."""
    figures: Mapping[str, Figure | None] = field(default_factory=dict)
    seeds: Sequence[int] | None = None
    """Those that it is of; None: all that were asked for."""
    failed: int = 0
    """Cells that have no number."""
