"""Say how far something is: by a bar where one can be drawn, else by a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

from rich.console import Console

from clat.core.formatting import duration

LINE_SECONDS = 30.0
"""Seconds between two lines where no bar can be drawn: a log file, a notebook without ipywidgets."""


def draws_bars(console: Console) -> bool:
    """Return whether a progress bar can be drawn.

    Args:
        console: where it would be.

    Returns:
        True on a terminal and in a notebook with ipywidgets, if the console is not quiet.
    """
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    return not console.quiet and (console.is_terminal or widgets)


def to_go(seconds: float | None) -> str:
    """Return how long something will take, for the end of a line.

    >>> to_go(754)
    '  about 13 min to go'

    Args:
        seconds: the estimate; None: there is none yet.

    Returns:
        The text, whole minutes beyond ten of them, with space before it; "" without an estimate.
    """
    if seconds is None:
        return ""
    rounded = round(seconds / 60) * 60 if 600 <= seconds < 3600 else seconds
    return f"  about {duration(rounded)} to go".replace("\N{NO-BREAK SPACE}", " ").replace(" min 00 s", " min")


class SparseLines:
    """Passes a line on if none has been for half a minute.

    Args:
        say: takes the line.
        seconds: the least time between two lines.
    """

    def __init__(self, say: Callable[[str], None], seconds: float | None = None) -> None:
        self.say, self.seconds = say, LINE_SECONDS if seconds is None else seconds
        self.last = time.monotonic()

    def rest(self) -> None:
        """Begin the half minute anew, as something else has been said."""
        self.last = time.monotonic()

    def __call__(self, line: Callable[[], str]) -> None:
        """Say a line if it is time.

        Args:
            line: makes it.
        """
        if time.monotonic() - self.last >= self.seconds:
            self.rest()
            self.say(line())
