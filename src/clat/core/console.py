"""Make consoles, tables and progress bars that show text just as it was written.

rich reads `[...]` as markup and `:name:` as emoji. Files, protocols, classes, layers, recipes and stages are named
by the user, and a name may hold either; so nothing else in the package makes a console, a table or a text column.
"""

from __future__ import annotations

from typing import Any

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text


def plain_console(**settings: Any) -> Console:
    """Return a console that takes nothing for markup or emoji and highlights nothing.

    Args:
        **settings: further arguments of rich's `Console`, such as `stderr=True`.

    Returns:
        The console.
    """
    return Console(markup=False, emoji=False, highlight=False, **settings)


class Table(rich.table.Table):
    """A table in which nothing is markup, whatever console shows it, a reader's own included."""

    def __init__(
        self, *headers: str, title: str | None = None, caption: str | None = None, **settings: Any
    ) -> None:
        super().__init__(*headers, **settings)
        self.title = None if title is None else Text(title, style="table.title")
        self.caption = None if caption is None else Text(caption, style="table.caption")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from super().__rich_console__(console, options.update(markup=False))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return super().__rich_measure__(console, options.update(markup=False))


def progress_columns(label: str, last: str) -> tuple[ProgressColumn, ...]:
    """Return the columns of a progress bar with a count and the time to go.

    Args:
        label: the text before the bar, a template as rich's `TextColumn` takes it ("{task.description}").
        last: the text behind the time to go, another such template.

    Returns:
        The columns, for rich's `Progress`.
    """
    return (
        TextColumn(label, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn(last, markup=False),
    )
