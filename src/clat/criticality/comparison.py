"""Agreement of rankings of the same layers: ranks side by side, Spearman's rho and Kendall's tau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from typing import Any

import numpy as np
import scipy  # whose parts are loaded where they are used, stats in a second

from clat.core.console import Table, plain_console
from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.notebook import ShownAsTable
from clat.criticality.ranking_report import LayerRow, Ranked


@dataclass(frozen=True)
class RankingComparison(ShownAsTable, SavedAsJson):
    """Comparison of two or more rankings.

    Attributes:
        names: names of the rankings.
        layers: layers that all of them have, in forward order.
        ranks: for each ranking a rank a layer, 1 the most critical, ties sharing their mean; None where the value
            is not comparable (layer 1 in CLAT's criticality).
        spearman: Spearman's rho of each pair, symmetric, over the layers that both rank; None where there are fewer
            than two such layers or one ranks them all alike.
        kendall: Kendall's tau-b of each pair, alike.
        reports: what was compared.
    """

    names: list[str]
    layers: list[LayerRow]
    ranks: list[list[float | None]]
    spearman: list[list[float | None]]
    kendall: list[list[float | None]]
    reports: list[Ranked[Any]]

    def top(self, ranking: int, k: int) -> list[LayerRow]:
        """Return the layers of smallest rank in one ranking.

        Args:
            ranking: its place in `names`.
            k: how many, if there are so many.

        Returns:
            The layers, best first; of equal ones the earlier.
        """
        ranked = [
            (rank, row.index, row) for rank, row in zip(self.ranks[ranking], self.layers, strict=True) if rank
        ]
        return [row for _, _, row in sorted(ranked, key=lambda each: each[:2])[:k]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the reports themselves.

        Returns:
            Ranks, correlations and reports by name.
        """
        return {
            "what": "ranking comparison",
            "rankings": self.names,
            "layers": [{"index": row.index, "name": row.name} for row in self.layers],
            "ranks": dict(zip(self.names, self.ranks, strict=True)),
            "spearman": self.spearman,
            "kendall": self.kendall,
            "reports": [report.to_dict() for report in self.reports],
        }

    def table(self, top: int = 0) -> Table:
        """Return the ranks, a row a layer.

        Args:
            top: so many of the most critical layers of each ranking are marked with a star.

        Returns:
            A rich table.
        """
        table = Table(title="Ranks of the layers, 1 the most critical")
        table.add_column("#", justify="right")
        table.add_column("layer", overflow="fold")
        for name in self.names:
            table.add_column(name.replace("-", " "), justify="right")  # where it may wrap
        best = [{row.name for row in self.top(i, top)} for i in range(len(self.names))]
        for place, row in enumerate(self.layers):
            ranks = (self.ranks[i][place] for i in range(len(self.names)))
            cells = [
                ("*" if row.name in best[i] else "") + ("-" if rank is None else f"{rank:g}")
                for i, rank in enumerate(ranks)
            ]
            table.add_row(str(row.index), row.name, *cells)
        return table

    def tops(self, k: int) -> Table:
        """Return the most critical layers of each ranking, a row a ranking.

        Args:
            k: how many layers, if there are so many.

        Returns:
            A rich table.
        """
        table = Table("ranking", "layers, most critical first", title=f"The {k} most critical layers")
        for place, name in enumerate(self.names):
            table.add_row(name, ", ".join(f"{row.index} {row.name}" for row in self.top(place, k)))
        return table

    def correlations(self) -> Table:
        """Return Spearman's rho and Kendall's tau, a row a pair of rankings.

        Returns:
            A rich table.
        """
        table = Table(title="Rank correlations")
        for name, justify in (("rankings", "left"), ("Spearman", "right"), ("Kendall", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for i, j in combinations(range(len(self.names)), 2):
            values = (self.spearman[i][j], self.kendall[i][j])
            shown = ("-" if value is None else f"{value:+.2f}" for value in values)
            table.add_row(f"{self.names[i]}, {self.names[j]}", *shown)
        return table

    def __str__(self) -> str:
        text = StringIO()
        console = plain_console(file=text, width=100)
        console.print(self.table())
        console.print(self.correlations())
        return text.getvalue()


def compare_rankings(reports: Sequence[Ranked[Any]]) -> RankingComparison:
    """Compare reports of rankings of one network, on the layers that they have in common (by name).

    Args:
        reports: two or more. Reports of the same ranking (measured on other images, say) are told apart by a
            number.

    Returns:
        Ranks and rank correlations.

    Raises:
        ClatError: for fewer than two reports, or if they share no layer.
    """
    reports = list(reports)
    if len(reports) < 2:
        raise ClatError("comparing rankings takes at least two reports")
    shared = set.intersection(*({row.name for row in report.rows} for report in reports))
    if not shared:
        raise ClatError("the reports have no layer in common: are they of the same network?")
    layers = [
        LayerRow(row.index, row.name, row.kind, row.num_params) for row in reports[0].rows if row.name in shared
    ]
    values = [_values(report, layers) for report in reports]
    ranks = [scipy.stats.rankdata(-value, nan_policy="omit") for value in values]
    return RankingComparison(
        names=_names(reports),
        layers=layers,
        ranks=[[None if np.isnan(rank) else float(rank) for rank in each] for each in ranks],
        spearman=[[_correlation(scipy.stats.spearmanr, one, two) for two in ranks] for one in ranks],
        kendall=[[_correlation(scipy.stats.kendalltau, one, two) for two in ranks] for one in ranks],
        reports=reports,
    )


def _values(report: Ranked[Any], layers: Sequence[LayerRow]) -> np.ndarray:
    """Return what the layers are ranked by, NaN where that may not be compared."""
    found = {row.name: report.value(row) if report.comparable(row) else np.nan for row in report.rows}
    return np.array([found[row.name] for row in layers])


def _correlation(measure: Any, one: np.ndarray, two: np.ndarray) -> float | None:
    both = ~np.isnan(one) & ~np.isnan(two)
    one, two = one[both], two[both]
    if len(np.unique(one)) < 2 or len(np.unique(two)) < 2:
        return None
    return float(measure(one, two).statistic)


def _names(reports: Sequence[Ranked[Any]]) -> list[str]:
    names = [report.ranking for report in reports]
    return [
        f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
