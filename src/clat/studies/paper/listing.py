"""The list of tables and figures: what each shows, and how much it takes."""

from __future__ import annotations

from dataclasses import replace

from clat.core.formatting import counted
from clat.studies.paper.catalogue import TABLES
from clat.studies.paper.figures import figure_curves
from clat.studies.paper.lines import table_lines
from clat.studies.paper.paper_table import PaperTable

RECORDED = dict.fromkeys((table.id for table in TABLES), "smoke") | {
    "T5": "smoke, and narrow for ResNet-50 and DenseNet-121 on CIFAR-10 with three seeds",
    "T7": "smoke, and narrow for ResNet-18 with three seeds",
    "T20": "smoke, and narrow for ResNet-18 with three seeds",
    "F3": "smoke, and narrow for ResNet-18 with three seeds",
    "T8": "smoke, and random weights at full width",
    "T9": "full width",
    "v1-T6": "full width",
    "T10": "smoke, and random weights at full width",
    "T13": "smoke, and narrow for ResNet-50, ResNet-18 and DenseNet-121 on CIFAR-10 with one seed",
    "T15": "smoke, and narrow for ResNet-18, ResNet-50 and WRN-34-10 with one seed",
    "T16": "smoke, and a network without defence at 224 pixels",
}
"""Table -> what of it is recorded in docs/results/paper."""


def described(table: PaperTable) -> tuple[str, str, str]:
    """Return a table's lines of the list.

    Args:
        table: the table.

    Returns:
        Its name, what it shows; and networks, data sets, how many networks a seed are trained, what is recorded.
    """
    count = run_count(table)
    parts = [
        ", ".join(table.all_networks()),
        ", ".join(table.all_datasets()),
        f"{counted(count, 'run')} a seed" if count else "nothing is trained",
    ]
    if table.id in RECORDED:
        parts.append(f"recorded: {RECORDED[table.id]}")
    return table.id, f"{table.title}. {table.claim}", "; ".join(parts)


def run_count(table: PaperTable) -> int:
    """Return how many networks a table trains for each seed, the choice of lambda aside.

    Args:
        table: the table.

    Returns:
        Networks; tables share many of them.
    """
    if not table.trains and table.id != "T10":
        return 0
    if table.kind in ("sweep", "strength", "curves"):
        places = [(network, dataset) for network in table.all_networks() for dataset in table.all_datasets()]
        return sum(len(figure_curves(table, *place, 0, 0.1)) for place in places)
    lines = table_lines(table)
    if table.id in ("T8", "T10"):  # the layers of PGD-AT's networks
        return len({(line.network, line.dataset) for line in lines})
    every = {replace(line, network=name) for line in lines for name in (line.network, line.source) if name}
    specs = {line.spec(table, 0, 0.1) for line in every}
    return len(specs.union(*(one.start_alike() for one in specs if one.base == "bai2024")))
