"""Printing by the commands.

Results that programs read go to a file or, with `--out -`, alone to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_settings = {"quiet": False, "stderr": False}


def set_up(*, quiet: bool, stderr: bool) -> None:
    """Set where the commands print from here on.

    Args:
        quiet: print nothing.
        stderr: print on standard error, where standard output is the result's.
    """
    _settings.update(quiet=quiet, stderr=stderr)
    console.cache_clear()


@cache
def console() -> Console:
    """Return the console of the command that runs. Made late: rich takes a tenth of a second to load.

    Returns:
        The console, the same one until `set_up` is called.
    """
    from clat.core.console import plain_console

    return plain_console(**_settings)


def say(text: str, style: str | None = None) -> None:
    """Print a line just as it is, however long.

    Args:
        text: the line.
        style: a style of rich, such as "bold".
    """
    console().print(text, style=style, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """Print a table.

    Args:
        renderable: what rich can print.
    """
    console().print(renderable)


def print_json(data: Any) -> None:
    """Print a result for programs, on standard output and in spite of --quiet.

    Args:
        data: what JSON can hold, without nan and infinity.
    """
    print(json.dumps(data, indent=1, allow_nan=False))


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Send all that is printed inside to standard error, so that the result stands alone on standard output.

    Args:
        wanted: False leaves everything as it is.

    Yields:
        Nothing.
    """
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
