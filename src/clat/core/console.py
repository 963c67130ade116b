"""One kind of console for everything that is shown: text stands as it was written.

rich reads `[...]` as markup and `:name:` as emoji. Files, protocols, classes, recipes and stages are named by the
user, and a name may hold either.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn


def plain_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Return a console that takes nothing for markup, emoji or something to highlight, in tables neither.

    Args:
        quiet: Show nothing.
        stderr: Write to standard error instead of standard output.
    """
    return Console(markup=False, emoji=False, highlight=False, quiet=quiet, stderr=stderr)


def progress_columns(label: str, last: str) -> tuple[ProgressColumn, ...]:
    """Return the columns of a progress bar with time to go, between two templates that take no markup either."""
    return (
        TextColumn(label, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn(last, markup=False),
    )
