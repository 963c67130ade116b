"""Commands as processes of their own: forked from this one, where all is imported already, or started anew."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clat import cli


@dataclass(frozen=True)
class Ended:
    """How a process ended. `code`: its exit code, or less 0 the signal that ended it."""

    code: int
    out: str
    err: str


class Command:
    """A process that runs `clat WORDS` in the folder `cwd`, in a session of its own; `log`: the start of the names
    of the files of what it says; `anew`: as a new interpreter, not as a fork of this one; `before`: called first,
    in the fork."""

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        log: Path,
        *,
        anew: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.files = Path(f"{log}.out"), Path(f"{log}.err")
        self.started = time.monotonic()
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            if anew:
                command = [sys.executable, "-m", "clat", *words]
                self.pid = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, start_new_session=True).pid
            else:
                self.pid = fork(words, out.fileno(), err.fileno(), cwd=cwd, before=before, session=True)

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to the process, or to all that it has started as well."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float) -> Ended | None:
        """Return how the process ended; None if it did not within so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                texts = [file.read_text(errors="replace") for file in self.files]
                return Ended(os.waitstatus_to_exitcode(status), *texts)
            time.sleep(0.005)
        return None

    def left_behind(self) -> list[int]:
        """Return the processes of its session that are still at work."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state not in "ZX":
                    found.append(int(stat.parent.name))
        return found


def fork(
    words: Sequence[str],
    out: int,
    err: int,
    *,
    cwd: Path | None = None,
    before: Callable[[], None] | None = None,
    session: bool = False,
) -> int:
    """Run `clat WORDS` in a fork of this process, with these file descriptors; return its number."""
    stopping = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # until the fork has handlers of its own
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        return pid
    code = 70
    try:
        if session:
            os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        if cwd is not None:
            os.chdir(cwd)
        sys.argv = ["clat", *words]
        if before is not None:
            before()
        code = cli.main()
    except KeyboardInterrupt:  # before the command began, or after it had ended
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def import_what_runs_import(words: Sequence[str], cwd: Path, log: Path) -> None:
    """Import what the command `clat WORDS` does, so that forks find it there. Nothing is computed here: a process
    whose libraries have threads should not be forked."""
    list_of_names = Path(f"{log}.modules")

    def write_at_exit() -> None:
        leave = os._exit

        def leave_names(code: int) -> None:
            list_of_names.write_text("\n".join(sorted(sys.modules)))
            leave(code)

        os._exit = leave_names  # type: ignore[assignment]

    command = Command(words, cwd, log, before=write_at_exit)
    ended = command.wait(600)
    if ended is None or ended.code:
        raise RuntimeError(f"clat {' '.join(words)} does not work: {ended}")
    for name in list_of_names.read_text().splitlines():
        if not name.startswith(("killed_", "hostile_", "__")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


class ForkedRow:
    """Stands for `subprocess.Popen` where a study starts `python -m clat train ...`: a fork, without the seconds in
    which an interpreter imports torch."""

    def __init__(self, command: Sequence[str], *, stdout: Any, stderr: int, env: dict[str, str]) -> None:
        self.pid = fork(command[3:], stdout.fileno(), stdout.fileno())
        self.code: int | None = None

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit code, once there is one."""
        deadline = time.monotonic() + (1e9 if seconds is None else seconds)
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("clat", seconds or 0)
            else:
                time.sleep(0.01)
        return self.code

    def send_signal(self, number: int) -> None:
        """Pass a signal on."""
        if self.code is None:
            os.kill(self.pid, number)
