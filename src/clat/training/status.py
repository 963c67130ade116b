"""How a run stands, by its run.json and the mark of whoever is training in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clat.core.parsing import parse_json
from clat.training.lock import is_held

DIED = "died"
"""What no run can write of itself: it was killed, or crashed in native code, or the machine went down."""


def read_about(run: Path) -> dict[str, Any]:
    """Return what run.json in a run's folder holds.

    Args:
        run: the folder.

    Returns:
        Nothing where the file is not there or cannot be read.
    """
    try:
        about = parse_json((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def run_status(run: Path, about: dict[str, Any] | None = None) -> str | None:
    """Return how the run in a folder stands.

    Args:
        run: its folder.
        about: its run.json, if it has been read already.

    Returns:
        "running", "interrupted", "failed", "finished", as the run wrote it, or "died" where it says that it is
        running but nobody trains there; None where run.json says nothing.
    """
    status = (read_about(run) if about is None else about).get("status")
    if status == "running" and not is_held(run):
        return DIED
    return status if isinstance(status, str) else None
