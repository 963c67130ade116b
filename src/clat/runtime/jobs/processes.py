"""This machine as a place for jobs: so many processes at a time, GPUs and threads divided among them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import torch

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.runtime.jobs.job import Job
from clat.runtime.layout import without_launcher

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Returns:
        Numbers or identifiers; empty where torch sees none.
    """
    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE, "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


class LocalProcess:
    """A job at work on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], gpus: Sequence[str], place: LocalProcesses) -> None:
        self.process, self.gpus, self.place = process, tuple(gpus), place

    def where(self) -> str:
        """Return the GPUs, or that it runs here.

        Returns:
            Such as "GPU 3".
        """
        return f"GPU {', '.join(self.gpus)}" if self.gpus else "here"

    def exit_code(self) -> int | None:
        """Return the exit code; the place has room again once there is one.

        Returns:
            The code; None while it is at work.
        """
        code = self.process.poll()
        if code is not None:
            self.place.leave(self)
        return code

    def stop(self, number: int) -> None:
        """Send the process a signal.

        Args:
            number: the signal's number.
        """
        self.process.send_signal(number)


class LocalProcesses:
    """Runs so many jobs at a time, each in a process of its own.

    A job gets the GPUs that carry the fewest others; more jobs than GPUs share them. Threads are divided evenly,
    unless OMP_NUM_THREADS says how many each has.

    Args:
        count: jobs at a time.
        gpus: what they may compute on; None: what torch sees.
    """

    def __init__(self, count: int, gpus: Sequence[str] | None = None) -> None:
        self.count = count
        self.gpus = visible_gpus() if gpus is None else list(gpus)
        self._at_work: list[LocalProcess] = []

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise an error if a job asks for more GPUs than there are.

        Args:
            jobs: all that are to run.

        Raises:
            ClatError: One does.
        """
        for job in jobs:
            needed = job.gpus(bool(self.gpus))
            if needed > len(self.gpus):
                raise ClatError(
                    f"{job.name} asks for {counted(needed, 'GPU')} (engine.devices), but there are "
                    f"{len(self.gpus)} here"
                )

    def has_room(self, job: Job) -> bool:
        """Return whether another job may be started.

        Args:
            job: the job; all are alike here.

        Returns:
            True if fewer than `count` are at work.
        """
        return len(self._at_work) < self.count

    def start(self, job: Job) -> LocalProcess:
        """Start a job.

        Args:
            job: the job.

        Returns:
            Its process.
        """
        load = Counter(gpu for other in self._at_work for gpu in other.gpus)
        by_load = sorted(self.gpus, key=lambda gpu: load[gpu])  # a stable sort: the first ones first
        gpus = by_load[: job.gpus(bool(self.gpus))]
        with job.log.open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "clat", *job.words()],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(job, gpus),
            )
        self._at_work.append(found := LocalProcess(process, gpus, self))
        return found

    def environment(self, job: Job, gpus: Sequence[str]) -> dict[str, str]:
        """Return the environment of a job's process.

        Args:
            job: the job.
            gpus: those that it computes on.

        Returns:
            This process's, with the job's GPUs and threads.
        """
        threads = max(1, torch.get_num_threads() // (self.count * job.processes))
        changes = {"PYTHONUNBUFFERED": "1", **({VISIBLE: ",".join(gpus)} if gpus else {})}
        return {THREADS: str(threads), **without_launcher(os.environ), **changes}

    def leave(self, process: LocalProcess) -> None:
        """Give back what a job that has ended had.

        Args:
            process: its process.
        """
        if process in self._at_work:
            self._at_work.remove(process)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
