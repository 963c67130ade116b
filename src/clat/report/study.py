"""A study's table as one HTML file that opens anywhere, with the plot of clean against robust accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from clat.files import write_text
from clat.report import plots
from clat.report.page import environment, style_sheet
from clat.report.plots import BLUE, MUTED, ORANGE, WIDTH, styled
from clat.studies.collect import COLUMNS, WIDE, caption, cells


def write_study_page(table: Mapping[str, Any], out: Path) -> Path:
    """study.html and clean-robust.svg in the study's folder `out`; returns the page's path."""
    figure = clean_against_robust(table["rows"])
    if figure is not None:
        plots.save_figure(figure, out / "clean-robust.svg")
    write_text(out / "study.html", render_study(table))
    return out / "study.html"


def render_study(table: Mapping[str, Any]) -> str:
    """The page as text."""
    figure = clean_against_robust(table["rows"])
    settings = table["settings"]
    protocol = table["protocol"] or {}
    facts = [
        ("Scale", table["scale"]),
        ("Network", " ".join(f"{key} {value}" for key, value in settings["model"].items())),
        ("Data", " ".join(f"{key} {value}" for key, value in settings["data"].items())),
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
            caption=caption(table),
            notes=notes,
            made=made,
        )
    )


@styled()
def clean_against_robust(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A point a row with its two intervals, named beside it; X and X+clat are joined. None without results."""
    done = {row["name"]: row["last"] for row in rows if row["status"] == "finished"}
    if not done:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()

    def at(name: str) -> tuple[float, float]:
        return 100 * done[name]["clean"]["value"], 100 * done[name]["robust"]["value"]

    labels = []
    for name, last in done.items():
        x, y = at(name)
        colour = ORANGE if "clat" in name else BLUE
        spread = [
            [[100 * abs(last[kind][side] - last[kind]["value"])] for side in ("low", "high")]
            for kind in ("clean", "robust")
        ]
        axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], color=colour, alpha=0.25, linewidth=0.8, zorder=1)
        axes.plot(x, y, "o", color=colour, markersize=4.5, zorder=3)
        labels.append(axes.annotate(name, (x, y), xytext=PLACES[0], textcoords="offset points", zorder=4))
        labels[-1].set(fontsize=6.5, color=colour)
        base = name.removesuffix("+clat")
        if base != name and base in done:
            axes.plot(*zip(at(base), (x, y), strict=True), color=MUTED, linewidth=0.7, zorder=2)
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
