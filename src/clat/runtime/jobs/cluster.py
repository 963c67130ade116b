"""A Ray cluster as a place for jobs: each asks for GPUs, CPUs and memory and runs where they are."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError, first_line
from clat.core.formatting import counted
from clat.core.version import __version__
from clat.runtime.jobs.answer import find_address, require_answer, require_cluster
from clat.runtime.jobs.job import LOST, Job
from clat.runtime.jobs.remote import CommandRunner, looking_around

LOOK = 60.0
"""Seconds that a machine has to say what it sees: its first process starts for that."""
POLL = 0.5
"""Seconds for which a machine waits for a command's end before it says that there is none yet."""
FRESH = 1.0
"""Seconds for which what the cluster has counts as known."""
LEAVE = 120.0
"""Seconds that a command has to save its state and leave, before its machine counts as gone."""


def import_ray() -> Any:
    """Return the module `ray`.

    Returns:
        The module.

    Raises:
        ClatError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ClatError("--on ray needs Ray, which is not installed: pip install ray") from None
    return ray


class RemoteJob:
    """A job on a cluster, at work or waiting for room."""

    def __init__(self, ray: Any, actor: Any, machine: Any, needs: Mapping[str, float]) -> None:
        self.ray, self.actor, self.needs = ray, actor, needs
        self._machine, self._name = machine, ""
        self._pending: Any = None
        self._stopped: float | None = None
        self._code: int | None = None

    def where(self) -> str:
        """Return the machine that it runs on.

        Returns:
            Its name; empty while the job waits for room.
        """
        return self._name

    def exit_code(self) -> int | None:
        """Return the exit code.

        Returns:
            The code, LOST where the machine is gone; None while it is at work or waits.
        """
        if self._code is None:
            self._code = self._asked()
            if self._code is not None:
                self.ray.kill(self.actor)  # which gives back what it had
        return self._code

    def _asked(self) -> int | None:
        if self._stopped is not None and (not self._name or time.monotonic() > self._stopped + LEAVE):
            return LOST  # it never began, or does not leave
        try:
            if not self._name:
                if not self._there(self._machine):
                    return None
                self._name = self.ray.get(self._machine)
            if self._pending is None:
                self._pending = self.actor.exit_code.remote(POLL)
            if not self._there(self._pending):
                return None
            code = self.ray.get(self._pending)
        except self.ray.exceptions.RayTaskError as error:
            raise ClatError(f"a job could not be started on the cluster: {first_line(error.cause)}") from None
        except self.ray.exceptions.RayError:
            return LOST
        self._pending = None
        return None if code is None else int(code)

    def _there(self, reference: Any) -> bool:
        return bool(self.ray.wait([reference], timeout=0)[0])

    def stop(self, number: int) -> None:
        """Ask the command to leave.

        Args:
            number: a signal's number; whichever it is, the command gets SIGTERM, as a worker may ignore Ctrl-C.
        """
        self._stopped = time.monotonic()
        self.actor.stop.remote()


class RayCluster:
    """Runs jobs as actors of Ray, whose folder all machines share.

    Args:
        folder: where the jobs write; it is made if it is not there.
        address: "auto", HOST:PORT or ray://HOST:PORT of a cluster that is there; None: one is started here.
        count: jobs at a time; None: as many as the cluster has room for.
        cpus: that each process of a job asks for, and threads that it has.
        memory: bytes that a job asks for; None: it does not say.

    Raises:
        ClatError: Ray is not installed, or the address does not answer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str | None = None,
        count: int | None = None,
        cpus: int = 1,
        memory: int | None = None,
    ) -> None:
        self.ray = import_ray()
        self.folder, self.count, self.cpus, self.memory = folder.absolute(), count, cpus, memory
        self._at_work: list[RemoteJob] = []
        self._counted: tuple[float, dict[str, float]] | None = None
        self._mine = not self.ray.is_initialized()
        if self._mine:
            _connect(self.ray, address)

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise an error for what no machine could run, or what would go wrong on one of them.

        Args:
            jobs: all that are to run.

        Raises:
            ClatError: A job asks for more than any machine has; a machine does not see the folder, or has no clat
                or another one.
        """
        machines = [node for node in self.ray.nodes() if node["Alive"]]
        for job in jobs:
            for kind, needed in self._needs(job).items():
                most = max((node["Resources"].get(kind, 0) for node in machines), default=0)
                if needed > most:
                    raise ClatError(
                        f"{job.name} asks for {_amount(kind, needed)}, but no machine of the cluster has more than "
                        f"{_amount(kind, most)}"
                    )
        for said in self._looked_around(machines):
            if not said["sees"]:
                raise ClatError(
                    f"{said['machine']} does not see {self.folder}: give a folder on storage that all machines "
                    "share"
                )
            if said["clat"] is None:
                raise ClatError(f"{said['machine']} has no clat: install version {__version__} there")
            if said["clat"] != __version__:
                raise ClatError(
                    f"{said['machine']} has clat {said['clat']}, here it is {__version__}: install one of them"
                )

    def _looked_around(self, machines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what each machine sees."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError as error:
            raise ClatError(f"cannot write to {self.folder}: {error.strerror or error}") from None
        look = self.ray.remote(num_cpus=0, max_retries=0)(looking_around())
        try:
            there = [
                look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    str(self.folder), token.name
                )
                for node in machines
            ]
            return [said for one in there if (said := self._said(one)) is not None]
        finally:
            token.unlink(missing_ok=True)

    def _said(self, look: Any) -> dict[str, Any] | None:
        """Return what one machine sees; None for one that the cluster has just lost, and may not know of yet."""
        try:
            said: dict[str, Any] = self.ray.get(look, timeout=LOOK)
        except self.ray.exceptions.TaskUnschedulableError:
            return None
        except self.ray.exceptions.RayError as error:
            raise ClatError(f"a machine of the cluster does not answer: {first_line(error)}") from None
        return said

    def _needs(self, job: Job) -> dict[str, float]:
        """Return what a job asks for, by Ray's names."""
        needs: dict[str, float] = {"CPU": self.cpus * job.processes}
        if gpus := job.gpus(self._resources().get("GPU", 0) > 0):
            needs["GPU"] = gpus
        return needs if self.memory is None else {**needs, "memory": self.memory}

    def has_room(self, job: Job) -> bool:
        """Return whether a job may be given to the cluster, where it may have to wait.

        What waits on a cluster is taken in any order, so no more is given to it than its machines carry: what is
        left waits here, the longest first.

        Args:
            job: the job.

        Returns:
            True if fewer than `count` are there; without a count, if what all of them ask for is there in sum.
        """
        self._at_work = [one for one in self._at_work if one._code is None]
        if self.count is not None:
            return len(self._at_work) < self.count
        if not self._at_work:
            return True
        there = self._resources()
        needs = [one.needs for one in self._at_work] + [self._needs(job)]
        kinds = {kind for need in needs for kind in need}
        return all(sum(need.get(kind, 0) for need in needs) <= there.get(kind, 0) for kind in kinds)

    def _resources(self) -> dict[str, float]:
        """Return what all machines have together, as of a second ago: the jobs are looked at more often."""
        now = time.monotonic()
        if self._counted is None or now > self._counted[0] + FRESH:
            self._counted = (now, dict(self.ray.cluster_resources()))
        return self._counted[1]

    def start(self, job: Job) -> RemoteJob:
        """Give a job to the cluster.

        Args:
            job: the job.

        Returns:
            What asks how it stands.
        """
        needs = self._needs(job)
        kind = self.ray.remote(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=0,
            **({} if self.memory is None else {"memory": self.memory}),
        )(CommandRunner)  # fmt: skip
        actor = kind.remote()
        passed = {name: value for name, value in os.environ.items() if name.startswith("CLAT_")}
        passed["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(self.cpus))
        words, log = list(job.words()), str(job.log.absolute())
        running = RemoteJob(self.ray, actor, actor.start.remote(words, log, os.getcwd(), passed), needs)
        self._at_work.append(running)
        return running

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._mine:
            self.ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one here."""
    settings: dict[str, Any] = {"address": "local", "include_dashboard": False}
    if address is not None:
        settings = {"address": find_address(address)}
        require_answer(settings["address"])
        require_cluster(settings["address"])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what it will do one day
    try:
        ray.init(**settings, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # its own errors are of no common kind
        where = "here" if address is None else f"at {address}"
        raise ClatError(f"no Ray cluster {where}: {first_line(error)}") from None


def _amount(kind: str, number: float) -> str:
    """Return an amount of a resource in words."""
    return f"{number / 1e9:.3g} GB of memory" if kind == "memory" else counted(f"{number:g}", kind)
