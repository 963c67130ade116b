"""The networks that a table needs, trained and measured beside one another before it asks for them one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from clat.recipe.toml import recipe_hash
from clat.runtime.jobs.job import JobPlace, JobStatus
from clat.studies.beside import row_job, run_jobs_shown
from clat.studies.measurement import measurement_job
from clat.studies.paper.methods import METHODS
from clat.studies.paper.store import Store
from clat.studies.paper.stored import Gathered, StoredRun
from clat.studies.row import Row


def gather(store: Store, ask: Callable[[], object], *, measuring: bool = False) -> Gathered:
    """Return what a table would train and measure and that is not there.

    Args:
        store: where it would be.
        ask: makes the table; what it asks for is only noted, so that it finds nothing to show.
        measuring: note also how its networks would be measured, those that have to be trained first too.

    Returns:
        The runs, what they start from before them, and the measurements, without those that have failed in this
        call.
    """
    store.gathered = found = Gathered(measuring)
    try:
        ask()
    finally:
        store.gathered = None
    left = {key: run for key, run in found.runs.items() if not store.is_finished(run) and key not in store.failures}
    return Gathered(measuring, left, found.measurements)


def run_beside(store: Store, asked: Gathered, place: JobPlace, console: Console) -> None:
    """Train and measure networks beside one another; why one failed is noted in the store.

    A network is measured as soon as it is trained.

    Args:
        store: where they are.
        asked: what is to be done.
        place: where it is done.
        console: where progress is shown.

    Raises:
        ClatError: If something cannot be done there; then nothing was started.
        KeyboardInterrupt: If they were asked to stop.
    """
    runs = list(asked.runs.values())
    for run in runs:
        if METHODS[run.spec.base].generated:
            store.stand_in(run)
    rows = _rows(store, runs)
    named = {row.name: row for row in rows}
    jobs = [row_job(row, named, store.write_recipe(row), store.folder) for row in rows]
    files: dict[str, Path] = {}
    for file, (run, what) in asked.measurements.items():
        log = store.folder.absolute() / "logs" / f"{run.key}-{file.stem}.log"
        job = measurement_job(what, run.recipe, log=log, after=[run.key])
        jobs.append(job)
        files[job.name] = file

    def changed(status: JobStatus) -> None:
        name, failure = status.job.name, status.failure or "failed"
        if status.state == "failed" and name in files:
            store.unmeasured[files[name]] = failure
        elif status.state == "failed":
            store.failures[name] = failure

    run_jobs_shown(jobs, place, console, changed)


def _rows(store: Store, runs: Sequence[StoredRun]) -> list[Row]:
    """Return runs as rows. One that begins like an earlier one takes its first stage over, and waits for it."""
    first: dict[str, str] = {}
    rows = []
    for run in runs:
        donor = store.donor(run)
        if donor is None and len(run.recipe.stages) > 1:
            donor = first.setdefault(recipe_hash(run.recipe, 1), run.key)
        needs = tuple(one.key for one in store.needs(run))
        rows.append(Row(run.key, run.recipe, reuse=None if donor == run.key else donor, needs=needs))
    return rows
