"""The numbers that the papers print, as read from `printed.csv` beside this file (`benchmarks.paper_printed`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One printed number, or one printed list of layers."""

    paper: str
    """clat-v2, clat-v1 or cure."""
    table: str
    """T1, T2, ..., D9, as in that paper."""
    dataset: str
    """Empty where none is printed."""
    network: str
    method: str
    """X, or X+clat and the like."""
    layers: str
    """critical, random, smallest, dynamic, fixed, or empty where the table does not tell them apart."""
    source: str
    """Of a transferred attack: the network it was made on."""
    variant: str
    """What else tells lines apart: "batch_size=10", "epoch=70", "checkpoint=best"."""
    attack: str
    """"none" for clean accuracy and for what has no attack."""
    metric: str
    value: str
    """As printed; accuracies in percent, layer lists with spaces."""
    flag: str
    """misprint, contradiction, borrowed, or empty: see `FLAGS`."""
    note: str
    elsewhere: str = ""
    """The table that it stands in, where it is shown in another one that lacks it; else empty."""

    @property
    def number(self) -> float | None:
        """Return the value as a number; None for a list of layers."""
        return None if self.metric == LAYERS else float(self.value)

    @property
    def layer_list(self) -> tuple[int, ...]:
        """Return a printed list of layers, from 1 in forward order; empty for a number."""
        return tuple(map(int, self.value.split())) if self.metric == LAYERS else ()


LAYERS = "criticality_rank_layers"
"""The metric whose value is a list of layers, the most critical first."""

FLAGS = {
    "misprint": "the paper's own slip",
    "contradiction": "another number of the paper speaks against it",
    "borrowed": "taken from elsewhere, measured or trained otherwise",
}
"""What is known of a printed number's reliability."""


@cache
def printed_numbers() -> tuple[Printed, ...]:
    """Return every printed number, in the order of the papers.

    Returns:
        The rows of printed.csv.
    """
    text = (files("clat.studies.paper") / "printed.csv").read_text(encoding="utf-8")
    return tuple(Printed(**row) for row in csv.DictReader(text.splitlines()))


def printed_elsewhere(paper: str, table: str, row: tuple[str, str, str], attack: str) -> Printed | None:
    """Return the number of a row that a table lacks, as another table of the paper prints it.

    Args:
        paper: clat-v2, clat-v1 or cure.
        table: the one that lacks it.
        row: data set, network and method.
        attack: of the number; "none" for clean accuracy.

    Returns:
        The first such accuracy; None if there is none.
    """
    for one in printed_numbers():
        apart = one.layers or one.source or one.variant or not one.metric.endswith("accuracy")
        same = (one.paper, one.dataset, one.network, one.method, one.attack) == (paper, *row, attack)
        if same and one.table != table and not apart:
            return replace(one, elsewhere=one.table)
    return None


def printed_in(paper: str, table: str) -> Sequence[Printed]:
    """Return the numbers of one table.

    Args:
        paper: clat-v2, clat-v1 or cure.
        table: its number, such as "T7".

    Returns:
        Its rows; none for a figure.
    """
    return [one for one in printed_numbers() if (one.paper, one.table) == (paper, table)]
