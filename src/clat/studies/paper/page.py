"""A table's files: table.json, table.md, page.html and plots, in a form that all kinds of tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clat.core.console import Table as RichTable
from clat.core.files import write_json, write_text
from clat.report import plots
from clat.report.inline import inline_svg
from clat.report.page import environment, style_sheet
from clat.studies.collect import markdown_table

Rows = Sequence[Sequence[str]]


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
    columns, rows, once = said_once(table["columns"], table["rows"])
    return (
        environment("studies")
        .get_template("paper.html")
        .render(
            table={**table, "columns": columns, "rows": rows, "facts": [*table["facts"], *once]},
            style=style_sheet(),
            plots=[inline_svg(figure, name, f"{table['id']}: {name}") for name, figure in drawn.items()],
        )
    )


def said_once(columns: Sequence[str], rows: Rows) -> tuple[list[str], list[list[str]], list[tuple[str, str]]]:
    """Return a table without the columns of data set and network that say one thing all the way down.

    Args:
        columns: their names.
        rows: a text for each of them.

    Returns:
        (columns, rows, what the columns left out say by their name), so that the rest has room on a page.
    """
    about = ("data", "network")
    said = {name: {row[i] for row in rows} for i, name in enumerate(columns) if name in about}
    once = [(name.capitalize(), min(values)) for name, values in said.items() if len(rows) > 1 and len(values) == 1]
    left = {name.lower() for name, _ in once}
    kept = [i for i, name in enumerate(columns) if name not in left]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], once


def rich_table(table: Mapping[str, Any]) -> RichTable:
    """Return a table for a terminal.

    Args:
        table: the table as plain data.

    Returns:
        A table to print.
    """
    shown = RichTable(title=f"{table['id']}: {table['title']} ({table['scale']})", caption=table["remark"])
    for column in table["columns"]:
        shown.add_column(column, overflow="fold")
    for row in table["rows"]:
        shown.add_row(*row)
    return shown
