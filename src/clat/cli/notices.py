"""Notices on the terminal: a line each, once a command, from the process that speaks for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clat.cli.console import say as print_line
from clat.core.notices import listening


@contextmanager
def notices_printed() -> Iterator[None]:
    """Print each different notice from inside once, as `note: ...` where the command prints.

    Yields:
        Nothing; the context is what listens.
    """
    said: set[str] = set()

    def note(text: str) -> None:
        from clat.runtime.engine import is_first_process  # imports torch, which a mistyped option need not wait for

        if text not in said and is_first_process():
            said.add(text)
            print_line(f"note: {text}")

    with listening(note):
        yield
