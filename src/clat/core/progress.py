"""Say how far something is: by a bar where one can be drawn, else by a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID

from clat.core.console import progress_columns
from clat.core.formatting import duration
from clat.core.logger import logger

Item = TypeVar("Item")

_watcher: ContextVar[Callable[[str, int, int], None] | None] = ContextVar("watcher", default=None)

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


def counted(what: str, items: Collection[Item]) -> Iterator[Item]:
    """Yield items, and tell the innermost `watching`, if there is one, how many have been dealt with.

    Args:
        what: the work that each of them is.
        items: what is gone through.

    Yields:
        Each item.
    """
    for done, item in enumerate(items):
        tell(what, done, len(items))
        yield item
    tell(what, len(items), len(items))


def tell(what: str, done: int, total: int) -> None:
    """Tell the innermost `watching`, if there is one, how far something is.

    Args:
        what: the work.
        done: how much of it is done.
        total: how much there is.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what, done, total)


@contextmanager
def watching(console: Console) -> Iterator[None]:
    """Show how far the work inside is that goes through `counted` or calls `tell`.

    Args:
        console: where it is shown.
    """
    with progress_shown(console) as show:
        token = _watcher.set(show)
        try:
            yield
        finally:
            _watcher.reset(token)


class Show(Protocol):
    """Shows how far one of several pieces of work is."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show it.

        Args:
            what: the work; where less of it is done than before, it begins anew.
            done: how much of it is done.
            total: how much there is.
            note: what is known so far.
        """


@contextmanager
def progress_shown(console: Console, unit: str = "") -> Iterator[Show]:
    """Show a bar for each piece of work, with the time to go.

    Where no bar can be drawn there is a line every half minute instead, which the logger `clat` gets too.

    Args:
        console: where it is shown.
        unit: what is counted, behind the counts of a line.

    Yields:
        What is told how far the work is.
    """
    drawn = draws_bars(console)

    def say(line: str) -> None:
        logger.info("%s", line)
        console.print(line, soft_wrap=True)

    sparse = SparseLines(say)
    tasks: dict[str, tuple[TaskID, float, int, int]] = {}
    columns = progress_columns("{task.description:10}", "{task.fields[note]}")
    with Progress(*columns, console=console, transient=True, disable=not drawn) as bars:

        def show(what: str, done: int, total: int, note: str = "") -> None:
            now = time.monotonic()
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note=note), now, done, done
            task, began, first, before = tasks[what]
            if done < before:
                bars.reset(task)
                began, first = now, done
            tasks[what] = task, began, first, done
            bars.update(task, completed=done, total=total, note=note)
            if done and not drawn:
                left = to_go((now - began) / (done - first) * (total - done)) if done > first else ""
                sparse(lambda: f"{what}  {done}/{total}{unit}{note and f'  {note}'}{left}")

        yield show
