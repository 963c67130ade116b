"""What a measurement of criticality says: a table, a ranking, a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clat.errors import ClatError
from clat.files import write_json


@dataclass(frozen=True)
class CriticalityRow:
    """One layer: its number (from 1), name, kind, weight count, feature shape, W(F_i) and C_i."""

    index: int
    name: str
    kind: str
    num_params: int
    feature_shape: tuple[int, ...]
    weakness: float
    criticality: float


@dataclass(frozen=True)
class CriticalityReport:
    """`rows` in forward order, and how they were measured. `alpha` is in image units."""

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

    def ranked(self) -> list[CriticalityRow]:
        """The rows, most critical first; layers without a defined index come last, ties keep their order."""
        return sorted(self.rows, key=lambda row: (math.isnan(row.criticality), -_number(row.criticality)))

    def top(self, k: int) -> list[str]:
        """The names of the k most critical layers (the k largest C), most critical first."""
        if not 0 < k <= len(self.rows):
            raise ClatError(f"k is {k}: expected 1 to {len(self.rows)}, the number of layers")
        return [row.name for row in self.ranked()[:k]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite or undefined index (both follow a layer of weakness zero) is None, as JSON has
        no such number."""
        data = dataclasses.asdict(self)
        for row in data["rows"]:
            row["criticality"] = row["criticality"] if math.isfinite(row["criticality"]) else None
            row["feature_shape"] = list(row["feature_shape"])
        return {"what": "criticality", **data}

    def to_json(self, path: str | Path) -> None:
        """Write the report; an existing file is replaced in one step."""
        write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: str | Path) -> CriticalityReport:
        """Read what `to_json` wrote. Raises ClatError if the file holds something else."""
        try:
            data = json.loads(Path(path).read_text())
            rows = [_row(**row) for row in data.pop("rows")]
            data.pop("what")
            return cls(rows=rows, **data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClatError(f"{path} is not a criticality report: {error}") from None

    def table(self, top: int | None = None) -> Table:
        """A rich table in forward order, the `top` most critical layers marked."""
        best = set(self.top(min(top, len(self.rows)))) if top else set()
        table = Table(
            title=f"Criticality, {self.n} images, {self.norm} eps {self.eps}, PGD-{self.steps}",
            caption=f"{self.metric}, normaliser {self.normaliser}, tap {self.tap}; accuracy on these images "
            f"{self.clean_accuracy:.1%} clean, {self.adversarial_accuracy:.1%} attacked",
        )
        for name, justify in (("#", "right"), ("layer", "left"), ("feature", "left"), ("weights", "right"),
                              ("W", "right"), ("C", "right"), ("rank", "right")):  # fmt: skip
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        rank = {row.name: place for place, row in enumerate(self.ranked(), start=1)}
        for row in self.rows:
            table.add_row(
                str(row.index),
                row.name,
                "x".join(map(str, row.feature_shape)),
                f"{row.num_params:,}",
                f"{row.weakness:.3e}",
                f"{row.criticality:.3g}" + (" (= W)" if row.index == self.rows[0].index else ""),
                str(rank[row.name]),
                style="bold" if row.name in best else None,
            )
        return table

    def __str__(self) -> str:
        text = StringIO()
        Console(file=text, width=100).print(self.table())
        return text.getvalue()


def _row(*, feature_shape: list[int], weakness: float, criticality: float | None, **rest: Any) -> CriticalityRow:
    """A row as JSON holds it. After a layer of weakness zero the index is infinite, or undefined where this
    weakness is zero too."""
    if criticality is None:
        criticality = math.inf if weakness > 0 else math.nan
    return CriticalityRow(feature_shape=tuple(feature_shape), weakness=weakness, criticality=criticality, **rest)


def _number(value: float) -> float:
    return -math.inf if math.isnan(value) else value
