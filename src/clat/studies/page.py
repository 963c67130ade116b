"""A study's table as one HTML file that opens anywhere, with the plot of clean against robust accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup
from matplotlib.figure import Figure

from clat.core.files import write_text
from clat.report import plots
from clat.report.inline import inline_plot
from clat.report.page import environment, style_sheet
from clat.studies.collect import COLUMNS, WIDE, caption, cells
from clat.studies.plots import clean_against_robust, differences, table_points
from clat.studies.tables.groups import COLUMNS as GROUP_COLUMNS
from clat.studies.tables.groups import GROUP_CAPTION, group_cells


def write_study_page(table: Mapping[str, Any], out: Path) -> Path:
    """Write study.html and, where there is something to show, clean-robust.svg and differences.svg.

    Args:
        table: what `clat.studies.collect.collect` returned.
        out: the study's folder.

    Returns:
        The page's path.
    """
    figures = {
        "clean-robust": clean_against_robust(table_points(table)),
        "differences": differences(table["groups"]),
    }
    for name, figure in figures.items():
        if figure is not None:
            plots.save_figure(figure, out / f"{name}.svg")
    write_text(out / "study.html", render_study(table))
    return out / "study.html"


def render_study(table: Mapping[str, Any]) -> str:
    """Return the page as HTML text, its plots inside.

    Args:
        table: what `clat.studies.collect.collect` returned.

    Returns:
        The page.
    """
    points, groups = table_points(table), table["groups"]
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
        environment("studies")
        .get_template("study.html")
        .render(
            table=table,
            style=style_sheet(),
            facts=facts,
            plot=_plot(lambda: clean_against_robust(points), "study", "Clean against robust accuracy of every row"),
            differences=_plot(lambda: differences(groups), "less", "Every row's accuracies less the control's"),
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


def _plot(draw: Callable[[], Figure | None], name: str, description: str) -> Markup | None:
    """Return a plot for the page, None where there is nothing to draw."""
    if draw() is None:
        return None
    return inline_plot(cast(Callable[[], Figure], draw), name, description)


def _listed(settings: Mapping[str, Any]) -> str:
    """Return a network or data set in words: its name, then what is set beside it."""
    rest = (f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if key != "name")
    return ", ".join([settings["name"], *rest])
