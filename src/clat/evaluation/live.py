"""The display of an evaluation that goes on: the attack, how far it is, the bound so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from clat.core.console import plain_console
from clat.core.progress import progress_shown
from clat.evaluation.job import Report


@contextmanager
def evaluation_progress(console: Console | None = None) -> Iterator[Report]:
    """Show a bar a pass, with time to go and the live upper bound of the robust accuracy.

    Where no bar can be drawn there is a line every half minute instead, which the logger `clat` gets too.

    Args:
        console: where it is shown; None: on the screen, or in the notebook.

    Yields:
        What an evaluation takes as `report`.
    """
    with progress_shown(plain_console() if console is None else console, " images") as show:

        def report(attack: str, through: int, total: int, bound: float) -> None:
            show(attack, through, total, f"robust at most {bound:.1%}")

        yield report
