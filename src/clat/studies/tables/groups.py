"""Rows that were run with several seeds, summarised: mean, deviation, and the difference to the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clat.core.console import Table as RichTable
from clat.core.formatting import DASH, count, counted, duration, percent, points
from clat.evaluation.statistics import PairedSeeds, SeedSummary

Entry = Mapping[str, Any]
COLUMNS = (
    "row",
    "seeds",
    "clean",
    "robust",
    "clean less control",
    "robust less control",
    "best robust",
    "moving",
    "time",
)
ACCURACIES = ("clean", "robust")


def summarise(entries: Sequence[Entry], control: str) -> list[dict[str, Any]]:
    """Return a summary for each group, in the entries' order, with its differences to the control.

    A difference pairs the seeds that both have: they share their first stage, so that its luck cancels.

    Args:
        entries: a table's rows, of which those that did not finish are left out.
        control: the group that the others are compared with; where none of it has finished there are no
            differences.

    Returns:
        Means, deviations and differences in [0, 1], mean seconds, and how many parameters move in each seed.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry["status"] == "finished":
            groups.setdefault(entry["group"], []).append(entry)
    base = groups.get(control, [])
    return [_summary(name, members, base) for name, members in groups.items()]


def _summary(name: str, members: Sequence[Entry], control: Sequence[Entry]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "seeds": [entry["seed"] for entry in members],
        "seconds": sum(entry["seconds"] for entry in members) / len(members),
        "trainable_parameters": [entry["trainable_parameters"] for entry in members],
    }
    theirs = {entry["seed"]: entry for entry in control}
    for label in ("last", "best"):
        for kind in ACCURACIES:
            values = tuple(_share(entry, label, kind) for entry in members)
            found[f"{label}_{kind}"] = SeedSummary(values).to_dict()
    if members is not control:
        shared = [(theirs[entry["seed"]], entry) for entry in members if entry["seed"] in theirs]
        for kind in ACCURACIES if shared else ():
            differences = tuple(_share(mine, "last", kind) - _share(other, "last", kind) for other, mine in shared)
            found[f"{kind}_less_control"] = PairedSeeds(differences).to_dict()
    return found


def _share(entry: Entry, label: str, kind: str) -> float:
    return float(entry[label][kind]["value"])


def group_cells(group: Mapping[str, Any]) -> list[str]:
    """Return one group as text, a cell for each of COLUMNS.

    Args:
        group: what `summarise` returned for it.

    Returns:
        The cells, accuracies in percent, differences in points.
    """
    moving = group["trainable_parameters"]
    return [
        group["name"],
        str(len(group["seeds"])),
        *(spread_text(group[f"last_{kind}"]) for kind in ACCURACIES),
        *paired_texts(group),
        spread_text(group["best_robust"]),
        " to ".join(count(end) for end in dict.fromkeys((min(moving), max(moving)))),
        duration(group["seconds"]),
    ]


def paired_texts(group: Mapping[str, Any]) -> list[str]:
    """Return a group's differences to the control as text.

    Args:
        group: what is known of it: `seeds`, and `clean_less_control` and `robust_less_control` where there are any.

    Returns:
        A text an accuracy; with the number of seeds where the control lacks some of the group's.
    """
    found = [group.get(f"{kind}_less_control") for kind in ACCURACIES]
    return [
        difference_text(one)
        + (f", {counted(len(one['values']), 'seed')}" if one and len(one["values"]) < len(group["seeds"]) else "")
        for one in found
    ]


def spread_text(summary: Mapping[str, Any]) -> str:
    """Return mean and deviation as text.

    Args:
        summary: `mean` and `deviation` in [0, 1]; a single seed has no deviation (None).

    Returns:
        Percent, such as "51.2 % ± 0.4".
    """
    deviation = summary["deviation"]
    return percent(summary["mean"]) + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def difference_text(difference: Mapping[str, Any] | None) -> str:
    """Return a difference and its interval as text.

    Args:
        difference: `value`, `low` and `high` in [0, 1], the bounds None for a single seed; None: there is no
            control.

    Returns:
        Percentage points with their sign, such as "+1.2 [+0.3, +2.1]", or a dash.
    """
    if difference is None:
        return DASH
    low, high = difference["low"], difference["high"]
    interval = "" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return points(difference["value"]).removesuffix("\N{NO-BREAK SPACE}points") + interval


def group_table(table: Mapping[str, Any]) -> RichTable:
    """Return the groups as a table for a terminal: the columns that fit one, a difference above its interval.

    Args:
        table: what `clat.studies.collect.collect` returned.

    Returns:
        A table to print.
    """
    shown = RichTable(title=f"{table['title']} ({table['scale']})", caption=GROUP_CAPTION)
    narrow = [
        COLUMNS.index(name) for name in ("row", "clean", "robust", "clean less control", "robust less control")
    ]
    for position in narrow:
        shown.add_column(COLUMNS[position], justify="right" if position else "left", overflow="fold")
    for group in table["groups"]:
        texts = group_cells(group)
        shown.add_row(*(texts[position].replace(" [", "\n[") for position in narrow))
    return shown


GROUP_CAPTION = (
    "Mean over the seeds ± their standard deviation, of the last weights; less control: mean difference to the "
    "study's first row, seed by seed, in points, with its 95 % t interval; best: the epoch with the highest robust "
    "accuracy on held-out training images; moving: parameters that the last stage trains, from the fewest to the "
    "most of a seed."
)
