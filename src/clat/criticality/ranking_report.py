"""Report of any ranking of layers: a value a layer, the larger the more critical; a table and a JSON file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from clat.core.checks import at_least
from clat.core.console import Table
from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.formatting import counted
from clat.core.notebook import ShownAsTable
from clat.core.parsing import parse_json
from clat.network.cost import Cost


@dataclass(frozen=True)
class LayerRow:
    """One layer: its number (from 1), name, kind and weight count."""

    index: int
    name: str
    kind: str
    num_params: int


Row = TypeVar("Row", bound=LayerRow)


class Ranked(ShownAsTable, SavedAsJson, Generic[Row]):
    """Base of the reports.

    Attributes:
        ranking: the ranking's name.
        rows: one a layer, in forward order.
    """

    ranking: str
    rows: list[Row]

    def value(self, row: Row) -> float:
        """Return what a row is ranked by.

        Args:
            row: one of `rows`.

        Returns:
            The value: the larger, the more critical; NaN where it is not defined.
        """
        raise NotImplementedError

    def comparable(self, row: Row) -> bool:
        """Return whether a row's value may be compared with the other rows'.

        Args:
            row: one of `rows`.

        Returns:
            False where the value is not defined.
        """
        return not math.isnan(self.value(row))

    def ranked(self) -> list[Row]:
        """Return the rows, most critical first.

        Returns:
            All of `rows`; those that cannot be compared come last, and last of them those without a defined value.
            Ties keep their order.
        """

        def place(row: Row) -> tuple[bool, bool, float]:
            value = self.value(row)
            return math.isnan(value), not self.comparable(row), -_number(value)

        return sorted(self.rows, key=place)

    def top(self, k: int) -> list[str]:
        """Return the names of the most critical layers.

        Args:
            k: how many, at least 1; all where there are not so many.

        Returns:
            Names, most critical first.

        Raises:
            ClatError: for a k below 1.
        """
        at_least("k", k, 1)
        return [row.name for row in self.ranked()[:k]]

    def bottom(self, k: int) -> list[str]:
        """Return the names of the least critical layers.

        Args:
            k: how many, at least 1.

        Returns:
            Names, least critical first.

        Raises:
            ClatError: where there are not so many that can be compared.
        """
        rows = [row for row in self.ranked() if self.comparable(row)]
        if not 0 < k <= len(rows):
            raise ClatError(f"k is {k}: expected 1 to {len(rows)}, the number of layers whose values compare")
        return [row.name for row in reversed(rows[-k:])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            What `from_dict` reads.
        """
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the report that `to_dict` wrote down.

        Args:
            data: its data, which is used up.

        Returns:
            The report.

        Raises:
            ValueError, KeyError, TypeError: if the data is of something else.
        """
        raise NotImplementedError

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read what `to_json` wrote.

        Args:
            path: the file.

        Returns:
            The report.

        Raises:
            ClatError: if the file holds something else.
        """
        try:
            data = parse_json(Path(path).read_text())
            data.pop("about", None)  # what `clat criticality` was called for
            return cls.from_dict(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClatError(f"{path} is not a {cls._what()}: {error}") from None

    @classmethod
    def _what(cls) -> str:
        return "report of a ranking"

    def table(self, top: int | None = None) -> Table:
        """Return a rich table in forward order.

        Args:
            top: so many of the most critical layers are marked; None: none.

        Returns:
            The table, a row a layer.
        """
        raise NotImplementedError

    def table_of(
        self, table: Table, columns: Sequence[tuple[str, str, Callable[[Row], str]]], top: int | None
    ) -> Table:
        """Fill a table: number and layer, then columns, then the rank.

        Args:
            table: without columns and rows.
            columns: name, justification, and a function that gives the text of a row.
            top: so many of the most critical layers are marked; None: none.

        Returns:
            The same table.
        """
        best = set(self.top(top)) if top else set()
        # Where there is no room a cell goes on below: neither names nor numbers lose their ends.
        for name, justify in (
            ("#", "right"),
            ("layer", "left"),
            *(column[:2] for column in columns),
            ("rank", "right"),
        ):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        rank = {row.name: place for place, row in enumerate(self.ranked(), start=1)}
        for row in self.rows:
            cells = (text(row) for _, _, text in columns)
            style = "bold" if row.name in best else None
            table.add_row(str(row.index), row.name, *cells, str(rank[row.name]), style=style)
        return table


@dataclass(frozen=True)
class RankingRow(LayerRow):
    """One layer and its `value`, the larger the more critical; `details`: what else was measured of it."""

    value: float
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingReport(Ranked[RankingRow]):
    """Report of a ranking other than CLAT's own.

    Attributes:
        ranking: its name (see `clat.criticality.rankings.RANKINGS`).
        measure: what a value is, in a few words.
        rows: one a layer, in forward order.
        n: images measured on.
        seed: seed of the measurement.
        settings: how it was measured, by name.
        baseline: the same measurements of the network as it is.
        cost: cost of the whole measurement (it does not enter a comparison of reports).
    """

    ranking: str
    measure: str
    rows: list[RankingRow]
    n: int
    seed: int
    settings: dict[str, Any]
    baseline: dict[str, float]
    cost: Cost = field(compare=False)

    def value(self, row: RankingRow) -> float:
        return row.value

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; a value that is not finite is text, as JSON has no such number."""
        data = dataclasses.asdict(self)
        for row in data["rows"]:
            row["value"] = row["value"] if math.isfinite(row["value"]) else str(row["value"])
        return {"what": "ranking", **data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RankingReport:
        if data.pop("what") != "ranking":
            raise ValueError("it says that it holds something else")
        rows = [RankingRow(**{**row, "value": _value(row["value"])}) for row in data.pop("rows")]
        return cls(rows=rows, cost=Cost(**data.pop("cost")), **data)

    def table(self, top: int | None = None) -> Table:
        """Return a rich table in forward order, with the `top` most critical layers marked."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        baseline = ", ".join(f"{name} {value:.4g}" for name, value in self.baseline.items())
        table = Table(
            title=f"Ranking '{self.ranking}': {self.measure}; {counted(self.n, 'image')}",
            caption=f"{settings}; the network as it is: {baseline}; "
            f"{self.cost.forwards:,} forwards, {self.cost.backwards:,} backwards, {self.cost.seconds:.1f} s",
        )
        names = list(dict.fromkeys(name for row in self.rows for name in row.details))

        def detail(name: str) -> Callable[[RankingRow], str]:
            return lambda row: f"{row.details[name]:.3g}" if name in row.details else "-"

        columns: list[tuple[str, str, Callable[[RankingRow], str]]] = [
            ("weights", "right", lambda row: f"{row.num_params:,}"),
            *((name.replace("_", " "), "right", detail(name)) for name in names),
            ("value", "right", lambda row: f"{row.value:.4g}"),
        ]
        return self.table_of(table, columns, top)


def _value(value: float | str | None) -> float:
    return math.inf if value is None else float(value)  # earlier versions wrote None, of infinity above all


def _number(value: float) -> float:
    return -math.inf if math.isnan(value) else value
