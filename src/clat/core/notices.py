"""Say what was decided for the user, where the user looks: on screen, in a result, or as a Python warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Notice(UserWarning):
    """A choice that the input left open, or a part of the input that was not used."""


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def notice(text: str) -> None:
    """Tell the innermost listener of `listening` this line; where there is none, warn with a `Notice`.

    Args:
        text: One line: what was decided, and how to decide otherwise.
    """
    listener = _listener.get()
    if listener is None:
        warnings.warn(text, Notice, stacklevel=3)
    else:
        listener(text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Send every notice from inside to `listener`, and to nobody else."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Yield a list that fills with the notices from inside, each once; they go on to whoever listened before."""
    texts: list[str] = []
    outer = _listener.get()

    def keep(text: str) -> None:
        if text in texts:
            return
        texts.append(text)
        if outer is None:
            warnings.warn(text, Notice, stacklevel=4)
        else:
            outer(text)

    with listening(keep):
        yield texts
