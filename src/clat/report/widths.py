"""How wide plots are: for a wide screen, or for a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

WIDTH = 5.6
"""Inches."""
NARROW = 3.3
"""Of a plot that fits a phone with its text still readable."""
SMALLEST = 8.5
"""Points of a narrow plot's smallest letters: 11 pixels on a phone."""

_narrow: ContextVar[bool] = ContextVar("drawn for a phone", default=False)


@contextmanager
def for_phone() -> Iterator[None]:
    """Draw figures narrow inside the context.

    Yields:
        Nothing.
    """
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def is_narrow() -> bool:
    """Return whether figures are drawn for a phone just now.

    Returns:
        True within `for_phone`.
    """
    return _narrow.get()


def figure_width() -> float:
    """Return how wide a figure is to be.

    Returns:
        Inches.
    """
    return NARROW if is_narrow() else WIDTH


def text_size(size: float) -> float:
    """Return a size of letters, raised in a narrow plot where it would not be readable.

    Args:
        size: points in a wide plot.

    Returns:
        Points.
    """
    return max(size, SMALLEST) if is_narrow() else size
