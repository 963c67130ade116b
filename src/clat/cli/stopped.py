"""What a command that was stopped leaves behind, and how to go on."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path

from clat.core.stopping import Terminated

CODES = (130, 143)
"""Exit codes of commands that were stopped by Ctrl-C or by a termination signal."""
_AT_ONCE = ("check", "curve", "corruptions", "transfer", "criticality", "compare", "bench")
"""Commands that write one result, at their end."""
_GO_ON = ("study", "paper", "evidence")
"""Commands that find in their folder what they have done."""
_RUNS = ("run.json", "*/run.json")
"""What a training writes first."""


def stop_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was stopped.

    Args:
        stop: what it was left by.

    Returns:
        130 after Ctrl-C, 143 after a termination signal.
    """
    return CODES[1] if isinstance(stop, Terminated) else CODES[0]


def how_to_go_on(options: Namespace) -> str | None:
    """Return what is to be said of a command that was stopped.

    Args:
        options: what the parser read.

    Returns:
        The end of a sentence that begins with "stopped", "" where there is nothing to add; None where the command
        has said it itself.
    """
    name, again = options.command, "; go on with the same command"
    if name in ("train", "harden", "demo"):
        folder = getattr(options, "resume", None) or options.out
        begun = folder is not None and any(any(Path(folder).glob(one)) for one in _RUNS)
        return None if begun else "; nothing was written"
    if name in _GO_ON or (name == "data" and options.action == "fetch"):
        return again
    if name == "evaluate" and options.state is not None:
        return again
    written = getattr(options, "out", None) is not None and Path(options.out).exists()
    if written or name not in (*_AT_ONCE, "evaluate"):
        return ""
    return "; nothing was written" + (" (evaluate keeps its work with --state FILE)" if name == "evaluate" else "")


def say_stopped(options: Namespace) -> None:
    """Say on standard error that a command was stopped, from the process that speaks for all.

    Args:
        options: what the parser read.
    """
    said = how_to_go_on(options)
    if said is not None and os.environ.get("LOCAL_RANK", "0") == os.environ.get("RANK", "0") == "0":
        print(f"clat: stopped{said}", file=sys.stderr)
