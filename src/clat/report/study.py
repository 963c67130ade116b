"""A study's table as one HTML file that opens anywhere, with the plot of clean against robust accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from clat.files import write_text
from clat.report import plots
from clat.report.page import environment, style_sheet
from clat.report.plots import BLUE, MUTED, ORANGE, WIDTH, styled
from clat.studies.collect import COLUMNS, WIDE, caption, cells
from clat.studies.groups import COLUMNS as GROUP_COLUMNS
from clat.studies.groups import GROUP_CAPTION, KINDS, group_cells


def write_study_page(table: Mapping[str, Any], out: Path) -> Path:
    """study.html and clean-robust.svg in the study's folder `out`; returns the page's path."""
    figure = clean_against_robust(table_points(table))
    if figure is not None:
        plots.save_figure(figure, out / "clean-robust.svg")
    write_text(out / "study.html", render_study(table))
    return out / "study.html"


def render_study(table: Mapping[str, Any]) -> str:
    """The page as text."""
    figure = clean_against_robust(table_points(table))
    settings = table["settings"]
    protocol = table["protocol"] or {}
    facts = [
        ("Scale", table["scale"]),
        ("Network", _listed(settings["model"])),
        ("Data", _listed(settings["data"])),
        ("eps", settings["eps"]),
        ("Epochs", table["epochs"]),
        ("Protocol", f"{protocol.get('name')} ({protocol.get('hash')})" if protocol else "–"),
    ]
    notes = [(row["name"], row["note"]) for row in table["rows"] if row["note"]]
    notes += [(row["name"], text) for row in table["rows"] for text in row.get("warnings", ())]
    made = [(key, value) for key, value in (table["environment"] or {}).items()]
    made.append(("settings", json.dumps(settings)))
    return (
        environment()
        .get_template("study.html")
        .render(
            table=table,
            style=style_sheet(),
            facts=facts,
            plot=figure and plots.inline_svg(figure, "study", "Clean against robust accuracy of every row"),
            columns=COLUMNS,
            wide=WIDE,
            rows=[cells(row) for row in table["rows"]],
            group_columns=GROUP_COLUMNS,
            groups=[group_cells(group) for group in table["groups"]],
            group_caption=GROUP_CAPTION,
            caption=caption(table),
            notes=notes,
            made=made,
        )
    )


def _listed(settings: Mapping[str, Any]) -> str:
    """A network or data set in words: its name, then what is set beside it."""
    rest = (f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if key != "name")
    return ", ".join([settings["name"], *rest])


class Point(NamedTuple):
    """A row of the plot: its name and, for clean and robust accuracy, (value, from, to) in [0, 1]."""

    name: str
    clean: tuple[float, float, float]
    robust: tuple[float, float, float]


def table_points(table: Mapping[str, Any]) -> list[Point]:
    """Means and deviations over the seeds where there are several, else each row and its intervals."""
    if table["groups"]:
        found = []
        for group in table["groups"]:
            summaries = [group[f"last_{kind}"] for kind in KINDS]
            spans = [(one["mean"], one["deviation"] or 0.0) for one in summaries]
            found.append(Point(group["name"], *((mean, mean - sd, mean + sd) for mean, sd in spans)))
        return found
    done = [row for row in table["rows"] if row["status"] == "finished"]
    return [
        Point(row["name"], *(tuple(row["last"][kind][key] for key in ("value", "low", "high")) for kind in KINDS))
        for row in done
    ]


@styled()
def clean_against_robust(points: Sequence[Point]) -> Figure | None:
    """A dot a point with its two spans, named beside it; X and X+clat are joined. None without points."""
    if not points:
        return None
    height = 4.2 + 0.12 * max(0, len(points) - 15)  # room for the names
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    labels = []
    places = {point.name: (100 * point.clean[0], 100 * point.robust[0]) for point in points}
    for name, clean, robust in points:
        x, y = places[name]
        colour = ORANGE if "clat" in name else BLUE
        spans = [[[100 * abs(value - end)] for end in (low, high)] for value, low, high in (clean, robust)]
        axes.errorbar(x, y, xerr=spans[0], yerr=spans[1], color=colour, alpha=0.25, linewidth=0.8, zorder=1)
        axes.plot(x, y, "o", color=colour, markersize=4.5, zorder=3)
        labels.append(axes.annotate(name, (x, y), xytext=PLACES[0], textcoords="offset points", zorder=4))
        labels[-1].set(fontsize=6.5, color=colour)
        base = name.removesuffix("+clat")
        if base != name and base in places:
            axes.plot(*zip(places[base], (x, y), strict=True), color=MUTED, linewidth=0.7, zorder=2)
    axes.set_xlabel("clean accuracy in %")
    axes.set_ylabel("robust accuracy in %")
    axes.grid(True)
    _set_apart(figure, axes, labels)
    return figure


PLACES = [(4, 3), (4, -8), (-4, 3), (-4, -8), (4, 10), (4, -15), (-4, 10), (-4, -15), (4, 17), (-4, 17)]
"""Where a label may stand, in points right of and above its point; it ends there where that is to the left."""


def _set_apart(figure: Figure, axes: Axes, labels: Sequence[Annotation]) -> None:
    """Each label at the first of PLACES at which it covers neither a point nor a label before it."""
    figure.draw_without_rendering()  # gives everything its place on the page
    points = axes.transData.transform([label.xy for label in labels])
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in points]
    for number, label in enumerate(labels):
        others = [box for place, box in enumerate(taken) if place != number]
        for right, up in PLACES:
            label.set(position=(right, up), horizontalalignment="left" if right > 0 else "right")
            box = label.get_window_extent()
            if not box.count_overlaps(others):
                break
        taken.append(box)
