"""Rows that run beside one another: each a job that waits for the rows that it builds on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from clat.recipe.toml import recipe_hash
from clat.runtime.jobs.job import Job, JobPlace, JobStatus
from clat.runtime.jobs.schedule import JobsStopped, run_jobs
from clat.runtime.jobs.shown import jobs_shown
from clat.studies.cost import stage_costs
from clat.studies.row import Row
from clat.studies.row_words import finished, row_words
from clat.training.interrupt import Interrupted
from clat.training.lock import is_held
from clat.training.state import state_hash

TAIL = 8192
"""Bytes at the end of metrics.jsonl that hold the last epoch's record."""


def run_rows_beside(
    rows: Sequence[Row],
    files: Mapping[str, Path],
    out: Path,
    place: JobPlace,
    console: Console,
    changed: Callable[[JobStatus], None] = lambda status: None,
) -> dict[str, str]:
    """Train rows beside one another, each after those that it builds on.

    A row that takes over another's stages starts when these are there, not only at the other one's end. One that
    fails is run once more, from its last state.

    Args:
        rows: those that have not finished, what they build on first.
        files: row -> its recipe's file.
        out: the folder of recipes, runs and logs, on storage that the place reaches.
        place: where they run.
        console: where progress is shown: a table on a terminal, else a line an event.
        changed: called when a row was started, has failed, or is done.

    Returns:
        Row -> why it failed, for those that failed twice.

    Raises:
        ClatError: If a row cannot run there; then none was started.
        KeyboardInterrupt: If Ctrl-C, or a row that was asked to stop, stopped them; all have saved their state.
        Interrupted: If a termination signal did.
    """
    named = {row.name: row for row in rows}
    jobs = [row_job(row, named, files[row.name], out) for row in rows]
    return run_jobs_shown(jobs, place, console, changed)


def run_jobs_shown(
    jobs: Sequence[Job],
    place: JobPlace,
    console: Console,
    changed: Callable[[JobStatus], None] = lambda status: None,
) -> dict[str, str]:
    """Run jobs to their ends and show how they stand.

    Args:
        jobs: rows, or evaluations of their networks.
        place: where they run.
        console: where progress is shown: a table on a terminal, else a line an event.
        changed: called when one was started, has failed, or is done.

    Returns:
        Name -> why it failed, for those that failed twice.

    Raises:
        ClatError: If a job cannot run there; then none was started.
        KeyboardInterrupt: If Ctrl-C, or a job that was asked to stop, stopped them.
        Interrupted: If a termination signal did.
    """
    with jobs_shown(console) as shown:

        def tell(status: JobStatus) -> None:
            shown.changed(status)
            changed(status)

        try:
            return run_jobs(jobs, place, show=shown.show, changed=tell)
        except JobsStopped as stopped:
            raise KeyboardInterrupt if stopped.number == signal.SIGINT else Interrupted(stopped.number) from None


def row_job(row: Row, rows: Mapping[str, Row], recipe: Path, out: Path) -> Job:
    """Return a row as a job.

    Args:
        row: the row.
        rows: all that run beside it, by name.
        recipe: its recipe's file.
        out: the folder of recipes, runs and logs.

    Returns:
        The job, which waits for what the row needs and what it takes stages from.
    """
    out = out.absolute()  # a machine of a cluster may run it elsewhere
    run = out / "runs" / row.name
    donor = rows.get(row.reuse or "")
    engine = row.recipe.engine
    shared = 0 if donor is None else stages_alike(row, donor)
    work, taken = row_costs(row, shared if donor is not None else _taken_before(row, out), run)

    def early() -> bool:
        there = donor is not None and begun_alike(row, donor, out)
        return there and not any(name in rows for name in row.needs)

    return Job(
        name=row.name,
        words=lambda: row_words(
            row, recipe.absolute(), out, early=donor is not None and begun_alike(row, donor, out)
        ),
        log=out / "logs" / f"{row.name}.log",
        after=(*row.needs, *([row.reuse] if row.reuse else ())),
        early=early,
        cost=work,
        handover={donor.name: taken} if donor is not None and shared else {},
        processes=engine.devices,
        device=engine.device,
        is_free=lambda: not is_held(run),
        progress=lambda: epochs_done(run, row.recipe.total_epochs),
    )


def begun_alike(row: Row, donor: Row, out: Path) -> bool:
    """Return whether another row has finished all stages with which this one begins too.

    Args:
        row: the row.
        donor: the row from which it may take stages.
        out: the folder of runs.

    Returns:
        True once the donor has kept its state after the last of them.
    """
    shared = stages_alike(row, donor)
    file = out / "runs" / donor.name / "states" / f"stage-{shared}.safetensors"
    return shared > 0 and file.exists() and state_hash(file) == recipe_hash(donor.recipe, shared)


def stages_alike(row: Row, donor: Row) -> int:
    """Return with how many stages two rows begin alike.

    Args:
        row: the row.
        donor: the row from which it may take stages.

    Returns:
        Stages, fewer than either row has.
    """
    shared = 0
    for number in range(1, min(len(row.recipe.stages), len(donor.recipe.stages))):
        if recipe_hash(row.recipe, number) == recipe_hash(donor.recipe, number):
            shared = number
    return shared


def _taken_before(row: Row, out: Path) -> int:
    """Return how many stages a row takes from one that ended in an earlier call, which it then begins with."""
    return 1 if row.reuse is not None and finished(out / "runs" / row.reuse) else 0


def row_costs(row: Row, shared: int, run: Path) -> tuple[float, float]:
    """Return about what is still to be done for a row, to start the longest first.

    Args:
        row: the row.
        shared: its first stages that it takes from another row.
        run: its folder; what it has done before is left out.

    Returns:
        (cost of what it trains itself, cost of what it takes over), in the unit of `clat.studies.cost`.
    """
    costs = stage_costs(row.recipe)
    taken = sum(costs[:shared])
    done, first = last_epoch(run), 0
    left = 0.0
    for number, (stage, cost) in enumerate(zip(row.recipe.stages, costs, strict=True)):
        begun = min(max(done - first, 0), stage.epochs) / stage.epochs
        left += cost * (1 - begun) if number >= shared else 0.0
        first += stage.epochs
    return left, taken


def last_epoch(run: Path) -> int:
    """Return how many epochs a run has behind it.

    Args:
        run: its folder.

    Returns:
        The number of its last epoch, counted from 1; 0 before its first.
    """
    record = _last_record(run)
    return 0 if record is None else int(record["epoch"])


def epochs_done(run: Path, epochs: int) -> str:
    """Return how far a run is, in a few words.

    Args:
        run: its folder.
        epochs: of the whole run.

    Returns:
        Such as "epoch 3/30, robust 31.2 %", the accuracy on held-out images; empty before its first epoch.
    """
    record = _last_record(run)
    if record is None:
        return ""
    robust = record.get("heldout_robust")
    return f"epoch {record['epoch']}/{epochs}" + (f", robust {robust:.1%}" if robust is not None else "")


def _last_record(run: Path) -> dict[str, Any] | None:
    """Return what a run's metrics say of its last epoch; None before the first."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("event") == "epoch":
            return record
    return None
