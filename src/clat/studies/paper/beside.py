"""The networks that a table needs, trained beside one another before it asks for them one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from clat.recipe.toml import recipe_hash
from clat.runtime.jobs.job import JobPlace, JobStatus
from clat.studies.beside import run_rows_beside
from clat.studies.paper.methods import METHODS
from clat.studies.paper.store import Store, StoredRun
from clat.studies.row import Row
from clat.studies.run import write_recipe


def gather(store: Store, ask: Callable[[], object]) -> list[StoredRun]:
    """Return the runs that a table would train and that have not finished.

    Args:
        store: where they would be.
        ask: makes the table; what it trains is only noted, so that it finds nothing to measure.

    Returns:
        The runs, what they start from before them, without those that have failed in this call.
    """
    store.gathered = {}
    try:
        ask()
        found = list(store.gathered.values())
    finally:
        store.gathered = None
    return [run for run in found if not store.is_finished(run) and run.key not in store.failures]


def train_beside(store: Store, runs: Sequence[StoredRun], place: JobPlace, console: Console) -> None:
    """Train runs beside one another; why one failed is noted in the store.

    Args:
        store: where they are.
        runs: those that have not finished, what they start from before them.
        place: where they run.
        console: where progress is shown.

    Raises:
        ClatError: If a run cannot be trained there; then none was started.
        KeyboardInterrupt: If they were asked to stop.
    """
    for run in runs:
        if METHODS[run.spec.base].generated:
            store.stand_in(run)
    rows = _rows(store, runs)
    files: dict[str, Path] = {row.name: write_recipe(row, store.folder) for row in rows}

    def changed(status: JobStatus) -> None:
        if status.state == "failed":
            store.failures[status.job.name] = status.failure or "failed"

    run_rows_beside(rows, files, store.folder, place, console, changed)


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
