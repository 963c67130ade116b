"""Record with which software and on which machine a result was computed."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from clat.core.processor import describe_processor
from clat.core.version import __version__


def describe_environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the versions, the machine and the number of threads, for a result file.

    Args:
        device: the one that computes, such as "cpu" or "cuda:1".

    Returns:
        Plain data that JSON can hold, with the keys clat, python, torch, platform, device and threads, and revision
        where clat runs from a checkout.
    """
    place = torch.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else describe_processor()
    found = revision()
    return {
        "clat": __version__,
        **({"revision": found} if found else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": f"{place.type} ({name})",
        "threads": torch.get_num_threads(),
    }


@cache
def revision() -> str | None:
    """Return the git commit of the checkout that clat runs from.

    Returns:
        The commit, with "+changes" where tracked files differ from it; None for an installed package, which stands
        in no checkout of clat, and where there is no git.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists() or not (root / "src" / "clat" / "core" / "environment.py").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def invocation() -> list[str] | None:
    """Return the words of the command line that runs, ["clat", ...].

    Returns:
        The words, or None where clat is called from Python, whose own command (a notebook's kernel, say) would tell
        nobody how to repeat a run.
    """
    if not sys.argv or (
        Path(sys.argv[0]).name != "clat" and Path(sys.argv[0]).parts[-2:] != ("clat", "__main__.py")
    ):
        return None
    return ["clat", *sys.argv[1:]]
