"""What runs beside other things: a `clat` command, what it waits for, what it needs, and how it stands."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

LOST = -1000
"""Stands for the exit code of a command whose machine is gone."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A `clat` command that runs in a process of its own.

    Attributes:
        name: its name, once among those that run together.
        words: called when it starts; returns the words after `clat`, which may depend on what others have left.
        log: the file to which its output is appended.
        after: names of jobs that must have ended before it, in whatever way.
        early: called while it waits for those; returns whether what it needs of them is there already.
        strict: it is not started where one of those has failed, but fails as well.
        cost: how long it takes, in any unit that all jobs share; the longest chain is started first.
        handover: job in `after` -> part of that one's cost after which `early` may be true; missing: all of it.
        processes: how many processes it starts, each on a device of its own.
        device: of what kind: "cpu", "cuda", or "auto": GPUs where its place has any.
        is_free: returns whether nobody else is at work where it writes, such as what a lost machine left behind.
        progress: returns in a few words how far it is.
    """

    name: str
    words: Callable[[], Sequence[str]]
    log: Path
    after: tuple[str, ...] = ()
    early: Callable[[], bool] = lambda: False
    strict: bool = False
    cost: float = 0.0
    handover: Mapping[str, float] = field(default_factory=dict)
    processes: int = 1
    device: str = "cpu"
    is_free: Callable[[], bool] = lambda: True
    progress: Callable[[], str] = lambda: ""

    def gpus(self, there: bool) -> int:
        """Return how many GPUs it computes on.

        Args:
            there: whether its place has any.

        Returns:
            One a process, or 0.
        """
        return self.processes if self.device == "cuda" or (self.device == "auto" and there) else 0


@dataclass
class JobStatus:
    """How a job stands.

    Attributes:
        job: the job.
        state: what it does.
        where: the machine or the GPU that it runs on.
        attempts: how often it was started.
        since: the monotonic time at which this attempt began, in seconds.
        seconds: what all attempts took; of a running one, those before.
        failure: why it failed the last time, in a line.
    """

    job: Job
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    where: str = ""
    attempts: int = 0
    since: float = 0.0
    seconds: float = 0.0
    failure: str | None = None

    @property
    def ended(self) -> bool:
        """Return whether it will not run again."""
        return self.state in ("done", "failed")


class RunningJob(Protocol):
    """A job at work."""

    def where(self) -> str:
        """Return the machine or the GPU; empty while it waits for one."""

    def exit_code(self) -> int | None:
        """Return its exit code, negative where a signal ended it, LOST where its machine is gone; None: at work."""

    def stop(self, number: int) -> None:
        """Send it a signal, without waiting for what it does."""


class JobPlace(Protocol):
    """Where jobs run."""

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise ClatError if a job cannot run here, before any is started."""

    def has_room(self, job: Job) -> bool:
        """Return whether a job may be started now."""

    def start(self, job: Job) -> RunningJob:
        """Start a job and return it."""

    def close(self) -> None:
        """Let go of whatever the place holds, when no job runs any more."""


def why_failed(code: int, log: Path) -> str:
    """Return in a line why a command failed.

    Args:
        code: its exit code, not 0.
        log: what it printed, which ends in its message.

    Returns:
        The line.
    """
    if code == LOST:
        return "its machine is gone: run the command again to go on with it"
    if code < 0:  # it was not asked to stop, so it could not say anything
        return f"died of {signal.Signals(-code).name}: run the study again to go on with it"
    return last_line(log)


def last_line(log: Path) -> str:
    """Return the last line of a log, which is where a command says why it failed.

    Args:
        log: the file, which need not be there.

    Returns:
        The line, without what marks it as an error.
    """
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "no message"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("clat: error: ") if lines else "no message"
