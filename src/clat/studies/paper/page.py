"""A table's files: table.json, table.md, page.html and plots, in a form that all kinds of tables share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clat.core.console import Table as RichTable
from clat.core.files import write_json, write_text
from clat.core.formatting import DASH
from clat.report import plots
from clat.report.inline import inline_svg
from clat.report.page import environment, style_sheet
from clat.studies.collect import markdown_table

Rows = Sequence[Sequence[str]]

FILES_ALONE = ("± seeds", "lowest")
"""Columns of an accuracy table that a terminal is too narrow for."""
WITHIN = re.compile(r"(?<=,) (?=[^\[\]]*\])")
"""The space between the two ends of an interval, at which no line should break."""


def write_files(table: Mapping[str, Any], figures: Mapping[str, Figure | None], folder: Path) -> Path:
    """Write a table's files.

    Args:
        table: what `clat.studies.paper.table.run_table` returned.
        figures: file name -> plot; None: there is nothing to draw.
        folder: the table's own.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", dict(table))
    write_text(folder / "table.md", markdown(table))
    for name, figure in figures.items():
        if figure is not None:
            plots.save_figure(figure, folder / f"{name}.svg")
    write_text(folder / "page.html", render(table, figures))
    return folder / "page.html"


def markdown(table: Mapping[str, Any]) -> str:
    """Return a table as Markdown: what it shows, what came out, the numbers, what they mean, notes.

    Args:
        table: the table as plain data.

    Returns:
        The text of table.md.
    """
    parts = [
        f"# {table['id']}: {table['title']} ({table['scale']})",
        table["shows"],
        table["remark"],
        table["outcome"],
    ]
    parts.append(markdown_table(table["columns"], table["rows"]))
    parts.append(table["caption"])
    if table["notes"]:
        parts.append("\n".join(f"- {name}: {text}" for name, text in table["notes"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def render(table: Mapping[str, Any], figures: Mapping[str, Figure | None]) -> str:
    """Return the page of a table as HTML, its plots inside.

    Args:
        table: the table as plain data.
        figures: file name -> plot.

    Returns:
        The page.
    """
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    columns, rows, once = compact(table["columns"], table["rows"])
    rows = [[WITHIN.sub("\u00a0", cell) for cell in row] for row in rows]
    return (
        environment("studies")
        .get_template("paper.html")
        .render(
            table={**table, "columns": columns, "rows": rows, "facts": [*table["facts"], *once]},
            style=style_sheet(),
            plots=[inline_svg(figure, name, f"{table['id']}: {name}") for name, figure in drawn.items()],
        )
    )


def compact(columns: Sequence[str], rows: Rows) -> tuple[list[str], list[list[str]], list[tuple[str, str]]]:
    """Return a table without its empty columns, and without those of data set and network where all rows share one.

    Args:
        columns: their names.
        rows: a text for each of them.

    Returns:
        (columns, rows, what the columns that all rows share say, by their name), so that the rest has room.
    """
    said = {name: {row[i] for row in rows} for i, name in enumerate(columns)}
    shared = [name for name in ("data", "network") if len(rows) > 1 and len(said.get(name, ())) == 1]
    empty = {name for name, values in said.items() if values and values <= {"", DASH}}
    left = empty | set(shared)
    kept = [i for i, name in enumerate(columns) if name not in left]
    once = [(name.capitalize(), min(said[name])) for name in shared]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], once


def rich_table(table: Mapping[str, Any]) -> RichTable:
    """Return a table for a terminal, without the columns that only its files have room for.

    Args:
        table: the table as plain data.

    Returns:
        A table to print.
    """
    columns, rows, once = compact(table["columns"], table["rows"])
    about = ", ".join([*(value for _, value in once), table["scale"]])
    shown = RichTable(title=f"{table['id']}: {table['title']} ({about})", caption=table["remark"])
    kept = [i for i, column in enumerate(columns) if column not in FILES_ALONE]
    for i in kept:
        shown.add_column(columns[i], overflow="fold")
    for row in rows:
        shown.add_row(*(row[i] for i in kept))
    return shown
