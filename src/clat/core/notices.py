"""Say what was decided for the user, where the user looks: on screen, in a result, or as a Python warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from clat.core.logger import logger


class Notice(UserWarning):
    """A choice that the input left open, or a part of the input that was not used."""


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def notice(text: str) -> None:
    """Tell the innermost listener of `listening` this line; where there is none, warn with a `Notice`.

    The logger `clat` gets it in any case.

    Args:
        text: one line that says what was decided, and how to decide otherwise.
    """
    logger.info("%s", text)
    listener = _listener.get()
    if listener is None:
        warnings.warn(text, Notice, stacklevel=3)
    else:
        listener(text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Send every notice from inside to `listener`, and to nobody else.

    Args:
        listener: called with the text of each.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the notices from inside; they go on to whoever listened before.

    Yields:
        A list that fills with their texts, each once.
    """
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
