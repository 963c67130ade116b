"""One process at a time in a run's folder: two would write over each other's state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clat.core.errors import ClatError

LOCK = ".lock"
"""Stays in the folder; what locks is the operating system's mark on it, which goes with the process."""
WAIT = 0.1
"""Seconds: whoever only asks whether it is held has it for a moment."""


@contextmanager
def only_one_in(out: Path) -> Iterator[None]:
    """Keep other processes, and other runs of this one, out of a folder while the body runs.

    Args:
        out: an existing folder.

    Yields:
        Nothing; the body runs.

    Raises:
        ClatError: one is there already, or the folder cannot be written to.
    """
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=WAIT, poll_interval=WAIT / 5)
    except Timeout:
        raise ClatError(f"another process is training in {out}: let it finish, or stop it") from None
    except OSError as error:
        raise ClatError(f"cannot write to {out}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def is_held(out: Path) -> bool:
    """Return whether a process is training in a folder. Nothing is written.

    Args:
        out: the folder, which need not exist.

    Returns:
        True also where that cannot be known, as in a folder that may only be read.
    """
    if not (out / LOCK).exists():
        return False
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False
