"""Jobs as their dependencies allow, the longest chain first, as many at a time as their place has room for."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Sequence

from clat.core.errors import ClatError
from clat.runtime.jobs.job import LOST, Job, JobPlace, JobStatus, RunningJob, why_failed
from clat.runtime.jobs.order import longest_first
from clat.runtime.jobs.signals import signals_noted

STOPPED = (130, 143)
"""Exit codes of a command that was asked to stop."""
ATTEMPTS = 2
"""A job that fails is started once more: machines and memory fail by chance, and a run goes on from its state."""
PAUSE = 0.1
"""Seconds between two looks at the jobs."""
PATIENCE = 0.5
"""Seconds that a job has to hear of a signal by itself: Ctrl-C in a terminal reaches it as well."""
EARLY = 10
"""Looks at the jobs for one at whether those that wait find early what they need: that reads files."""
UNLOCK = 60.0
"""Seconds that a job waits for what its last attempt may have left at work, where a machine was lost."""


class JobsStopped(BaseException):
    """Raised where jobs were asked to stop and have ended; no error, like KeyboardInterrupt.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def run_jobs(
    jobs: Sequence[Job],
    place: JobPlace,
    *,
    show: Callable[[Sequence[JobStatus]], None] = lambda statuses: None,
    changed: Callable[[JobStatus], None] = lambda status: None,
) -> dict[str, str]:
    """Run jobs to their ends; one that fails is started once more.

    A job starts when those in its `after` have ended, whether they failed or not, or when it finds early what it
    needs of them. Where several could start, the one with which the longest chain begins does. The place is not
    closed.

    Args:
        jobs: in the table's order, which those of equal length keep; names that are not among them are nothing to
            wait for.
        place: where they run.
        show: called again and again with how all stand.
        changed: called when one was started, has failed, or is done.

    Returns:
        Name -> why it failed, for those that failed twice.

    Raises:
        ClatError: If a job cannot run there; then none was started. Also if jobs wait for one another.
        JobsStopped: If this process or one of the jobs was asked to stop; all have ended by then.
    """
    place.check(jobs)
    statuses = {job.name: JobStatus(job) for job in jobs}
    running: dict[str, RunningJob] = {}
    queue = [statuses[name] for name in longest_first(jobs)]
    with signals_noted() as noted:
        try:
            for look in itertools.count():
                _fail_with_others(statuses, changed)
                if all(status.ended for status in statuses.values()):
                    break
                _start(queue, statuses, running, place, changed, early=look % EARLY == 0)
                retried = any(status.attempts and not status.ended for status in statuses.values())
                if not running and not retried:
                    left = ", ".join(name for name, status in statuses.items() if not status.ended)
                    raise ClatError(f"jobs wait for one another, or for more than there is: {left}")
                show(list(statuses.values()))
                time.sleep(PAUSE)
                for name in list(running):
                    _look(statuses[name], running, noted, changed)
                if noted:
                    raise JobsStopped(noted[0])
        except BaseException as error:
            _stop(running, error.number if isinstance(error, JobsStopped) else signal.SIGTERM)
            raise
        show(list(statuses.values()))
    return {name: status.failure or "" for name, status in statuses.items() if status.state == "failed"}


def _fail_with_others(statuses: dict[str, JobStatus], changed: Callable[[JobStatus], None]) -> None:
    """End the strict jobs that wait for one which has failed, and those that wait for them."""
    waiting = [status for status in statuses.values() if status.job.strict and status.state == "waiting"]
    for status in waiting:
        lost = [name for name in status.job.after if name in statuses and statuses[name].state == "failed"]
        if lost:
            status.state, status.failure = "failed", f"{lost[0]}: {statuses[lost[0]].failure}"
            changed(status)
            _fail_with_others(statuses, changed)  # who waits for this one may stand before it
            return


def _start(
    queue: Sequence[JobStatus],
    statuses: dict[str, JobStatus],
    running: dict[str, RunningJob],
    place: JobPlace,
    changed: Callable[[JobStatus], None],
    *,
    early: bool,
) -> None:
    """Start the jobs that may be, in the order of the queue, until there is no room for one of them: what comes
    later does not overtake it, or it might wait to the end. `early`: look also at what those that wait for others
    find of them."""
    for status in queue:
        if status.state != "waiting" or _delayed(status):
            continue
        room = place.has_room(status.job)
        free = all(one not in statuses or statuses[one].ended for one in status.job.after)
        if not free and not (room and early and status.job.early()):
            continue
        if not room:
            return
        status.state, status.since = "running", time.monotonic()
        status.attempts += 1
        running[status.job.name] = place.start(status.job)
        changed(status)


def _delayed(status: JobStatus) -> bool:
    """Return whether a job waits for the end of what its last attempt left behind."""
    if status.state != "waiting" or not status.attempts or status.job.is_free():
        return False
    return time.monotonic() < status.since + UNLOCK


def _look(
    status: JobStatus, running: dict[str, RunningJob], noted: list[int], changed: Callable[[JobStatus], None]
) -> None:
    """Bring one job's status up to date."""
    job = running[status.job.name]
    code, where = job.exit_code(), job.where()
    if where and not status.where:
        status.since = time.monotonic()  # until now it waited for room on the cluster
    status.where = where or status.where
    if code is None:
        return
    del running[status.job.name]
    status.seconds += time.monotonic() - status.since
    if code in STOPPED:
        noted.append(code - 128)
    elif code == 0:
        status.state, status.failure = "done", None
        changed(status)
    elif not noted:
        why = f"{status.where or 'its machine'} is gone" if code == LOST else why_failed(code, status.job.log)
        status.failure, status.where, status.since = why, "", time.monotonic()
        status.state = "failed" if status.attempts >= ATTEMPTS else "waiting"
        changed(status)


def _stop(running: dict[str, RunningJob], number: int) -> None:
    """End all jobs, which save their state before they leave."""
    if number == signal.SIGINT:
        _wait(running, PATIENCE)
    for job in running.values():
        job.stop(number)
    _wait(running, None)


def _wait(running: dict[str, RunningJob], seconds: float | None) -> None:
    """Wait for the jobs' ends, at most so long; None: however long that takes."""
    until = None if seconds is None else time.monotonic() + seconds
    while running and (until is None or time.monotonic() < until):
        for name in list(running):
            if running[name].exit_code() is not None:
                del running[name]
        time.sleep(PAUSE / 2 if running else 0)
