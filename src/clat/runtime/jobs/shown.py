"""Jobs on screen: one table of all that moves on a terminal, else a line an event."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from clat.core.console import Table
from clat.core.formatting import duration
from clat.runtime.jobs.job import JobStatus

EVERY = 1.0
"""Seconds between two drawings, for each of which the progress of what runs is read."""


class ShownJobs:
    """Says how jobs stand.

    Args:
        console: where.
        live: the table on the terminal; None: there is none.
    """

    def __init__(self, console: Console, live: Live | None) -> None:
        self.console, self.live = console, live
        self._drawn = 0.0

    def show(self, statuses: Sequence[JobStatus]) -> None:
        """Draw the table, where there is one, at most once a second.

        Args:
            statuses: of all jobs.
        """
        if self.live is not None and time.monotonic() - self._drawn > EVERY:
            self._drawn = time.monotonic()
            self.live.update(jobs_table(statuses), refresh=True)

    def changed(self, status: JobStatus) -> None:
        """Say that a job was started, has failed, or is done.

        Args:
            status: the job's.
        """
        name = status.job.name
        if status.state == "running":
            if self.live is None:
                again = ", once more" if status.attempts > 1 else ""
                self.console.print(f"{name} ...{again}", soft_wrap=True)
        elif status.state == "done":
            self.console.print(f"{name}: {duration(status.seconds)}", soft_wrap=True)
        else:
            again = "; trying once more" if status.state == "waiting" else ""
            self.console.print(f"{name}: failed: {status.failure}{again}", style="red", soft_wrap=True)


@contextmanager
def jobs_shown(console: Console) -> Iterator[ShownJobs]:
    """Show jobs while the code inside runs.

    Args:
        console: where.

    Yields:
        What is told how they stand.
    """
    if not console.is_terminal or console.quiet:
        yield ShownJobs(console, None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield ShownJobs(console, live)


def jobs_table(statuses: Sequence[JobStatus]) -> Table:
    """Return how jobs stand as a table: those at work, and how many others there are.

    Args:
        statuses: of all jobs.

    Returns:
        A table to print.
    """
    counts = {
        state: sum(one.state == state for one in statuses) for state in ("waiting", "running", "done", "failed")
    }
    caption = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    shown = Table(caption=caption)
    for name in ("row", "where", "progress", "time"):
        shown.add_column(name, no_wrap=name == "time", overflow="fold")
    for status in statuses:
        if status.state == "running":
            spent = status.seconds + time.monotonic() - status.since
            where = status.where or "waits for room"
            shown.add_row(status.job.name, where, status.job.progress(), duration(spent))
    return shown
