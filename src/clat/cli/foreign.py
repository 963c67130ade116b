"""Errors that code of the user's own raises, in the midst of a command: one line that says where."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path

from clat.core.errors import ClatError

_OURS = Path(__file__).parents[1]


def told(error: BaseException) -> ClatError | None:
    """Return the line for an error that passed through a file of the user's.

    Args:
        error: what a command raised, caught in `clat.cli`.

    Returns:
        The error to show; None for any other.
    """
    steps = [step for step in traceback.extract_tb(error.__traceback__) if _is_users(step.filename)]
    if not steps:
        return None
    ended = isinstance(error, SystemExit)
    what = f"it left with exit code {error.code!r}" if ended else type(error).__name__  # type: ignore[attr-defined]
    reason = "" if ended else next(iter(str(error).strip().splitlines()), "")[:200]
    where = f"{Path(steps[-1].filename).name}, line {steps[-1].lineno}, in {steps[-1].name}"
    return ClatError(f"your own code failed, {what}{': ' if reason else ''}{reason} ({where})")


def _is_users(filename: str) -> bool:
    """Return whether a file is neither the package's nor one that was installed."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places = [_OURS, Path(sys.prefix), *(Path(place) for place in installed if place)]
    return not any(path.is_relative_to(place.resolve()) for place in places)
