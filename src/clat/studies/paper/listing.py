"""The list of tables and figures: what each shows, and how much it takes."""

from __future__ import annotations

from collections.abc import Sequence

from clat.core.formatting import DASH
from clat.studies.paper.figures import figure_curves
from clat.studies.paper.lines import table_lines
from clat.studies.paper.methods import taken_apart
from clat.studies.paper.paper_table import PaperTable

RECORDED: dict[str, str] = {}
"""Table -> the scales at which a result is recorded in docs/results/paper."""


def described(table: PaperTable) -> Sequence[str]:
    """Return a table's line of the list.

    Args:
        table: the table.

    Returns:
        Its name, what it shows, networks, data sets, how many networks a seed are trained, and what is recorded.
    """
    return (
        table.id,
        table.shows,
        ", ".join(table.all_networks()),
        ", ".join(table.all_datasets()),
        str(run_count(table) or DASH),
        RECORDED.get(table.id, DASH),
    )


def run_count(table: PaperTable) -> int:
    """Return how many networks a table trains for each seed, the choice of lambda aside.

    Args:
        table: the table.

    Returns:
        Networks; tables share many of them.
    """
    if not table.trains:
        return 1 if table.id == "T10" else 0
    if table.kind in ("sweep", "strength", "curves"):
        places = [(network, dataset) for network in table.all_networks() for dataset in table.all_datasets()]
        return sum(len(figure_curves(table, *place, 0, 0.1)) for place in places)
    if table.id == "T8":
        return len(table_lines(table))
    lines = table_lines(table)
    return len({(taken_apart(line.method), line.network, line.dataset, line.layers) for line in lines})
