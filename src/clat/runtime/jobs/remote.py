"""What runs on the machines of a cluster: a command and its exit code, and a first look around."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clat.runtime.layout import without_launcher


class CommandRunner:
    """Runs one `clat` command on the machine that it is on; an actor of Ray."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str], log: str, folder: str, environment: Mapping[str, str]) -> str:
        """Start the command.

        Args:
            words: those after `clat`.
            log: the file to which its output is appended.
            folder: where it runs, if there is such a folder here.
            environment: variables of the machine that asks for it.

        Returns:
            This machine's name.
        """
        with open(log, "a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clat", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder if Path(folder).is_dir() else None,
                env={**without_launcher(os.environ), **environment, "PYTHONUNBUFFERED": "1"},
            )
        return platform.node()

    def exit_code(self, seconds: float) -> int | None:
        """Return the command's exit code, waiting a while for it.

        Args:
            seconds: how long.

        Returns:
            The code; None while it is at work.
        """
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ask the command to save its state and leave."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def looking_around() -> Callable[[str, str], dict[str, Any]]:
    """Return a function that a machine runs before it has been seen that clat is there.

    Defined within another, it travels as code and not by name.

    Returns:
        A function of a folder and of the name of a file in it. It returns the machine's name, whether the file is
        there and, where clat can be imported, its version.
    """

    def look(folder: str, token: str) -> dict[str, Any]:
        import os
        import platform

        found = {"machine": platform.node(), "sees": os.path.exists(os.path.join(folder, token))}
        try:
            from clat.core.version import __version__
        except ImportError:
            return {**found, "clat": None}
        return {**found, "clat": __version__}

    return look
