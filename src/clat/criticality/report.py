"""Report of a measurement of criticality: a table, a ranking, a JSON file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from clat.core.console import Table
from clat.core.formatting import counted
from clat.criticality.ranking_report import LayerRow, Ranked

COMPARED = {
    "forward": "C: W over the W of the layer before it in forward order, which may not be what it reads",
    "input": "C: W over the W of what enters the layer",
}
"""What C is under each of `clat.criticality.PREDECESSORS`, for the reader of a table."""


@dataclass(frozen=True)
class CriticalityRow(LayerRow):
    """One layer: its number (from 1), name, kind, weight count, feature shape, W(F_i) and C_i.

    `input_weakness`: W of what enters the layer, where that is what C compares with.
    """

    feature_shape: tuple[int, ...]
    weakness: float
    criticality: float
    input_weakness: float | None = None


@dataclass(frozen=True)
class CriticalityReport(Ranked[CriticalityRow]):
    """Report of CLAT's criticality: `rows` in forward order, and how they were measured.

    `alpha` is in image units; `predecessor`: what the W of a layer is divided by, see
    `clat.criticality.PREDECESSORS`.
    """

    rows: list[CriticalityRow]
    eps: str
    alpha: float
    steps: int
    norm: str
    n: int
    normaliser: str
    tap: str
    metric: str
    seed: int
    clean_accuracy: float
    adversarial_accuracy: float
    ranking: str = "criticality"
    predecessor: str = "forward"

    def value(self, row: CriticalityRow) -> float:
        return row.criticality

    def is_ratio(self, row: CriticalityRow) -> bool:
        """Return whether C of a row is a ratio: of layer 1, which has none before it, it is the weakness.

        Args:
            row: one of `rows`.

        Returns:
            False for layer 1, unless C compares with what enters the layer.
        """
        return self.predecessor == "input" or row is not self.rows[0]

    def comparable(self, row: CriticalityRow) -> bool:
        """Return whether C is a ratio, and defined."""
        return super().comparable(row) and self.is_ratio(row)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        An infinite or undefined index (both follow a layer of weakness zero) is None, as JSON has no such number.
        """
        data = dataclasses.asdict(self)
        for row in data["rows"]:
            row["criticality"] = row["criticality"] if math.isfinite(row["criticality"]) else None
            row["feature_shape"] = list(row["feature_shape"])
            if row["input_weakness"] is None:
                del row["input_weakness"]
        return {"what": "criticality", **data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CriticalityReport:
        rows = [_row(**row) for row in data.pop("rows")]
        data.pop("what")
        return cls(rows=rows, **data)

    @classmethod
    def _what(cls) -> str:
        return "criticality report"

    def table(self, top: int | None = None) -> Table:
        """Return a rich table in forward order, with the `top` most critical layers marked."""
        table = Table(
            title=f"Criticality, {counted(self.n, 'image')}, {self.norm} eps {self.eps}, PGD-{self.steps}",
            caption=f"{self.metric}, normaliser {self.normaliser}, tap {self.tap}; {COMPARED[self.predecessor]}; "
            f"accuracy on these images {self.clean_accuracy:.1%} clean, {self.adversarial_accuracy:.1%} attacked",
        )
        columns = [
            ("feature", "left", lambda row: "x".join(map(str, row.feature_shape))),
            ("weights", "right", lambda row: f"{row.num_params:,}"),
            ("W", "right", lambda row: f"{row.weakness:.3e}"),
            ("C", "right", lambda row: f"{row.criticality:.3g}" + ("" if self.is_ratio(row) else " (= W)")),
        ]
        return self.table_of(table, columns, top)


def _row(*, feature_shape: list[int], weakness: float, criticality: float | None, **rest: Any) -> CriticalityRow:
    """Return a row as JSON holds it.

    After a layer of weakness zero the index is infinite, or undefined where this weakness is zero too, or where it
    compares with what enters the layer.
    """
    if criticality is None:
        criticality = math.inf if weakness > 0 and rest.get("input_weakness") is None else math.nan
    return CriticalityRow(feature_shape=tuple(feature_shape), weakness=weakness, criticality=criticality, **rest)
