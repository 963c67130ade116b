"""Running a study row by row, each in a process of its own: its memory is its own, and a failure ends no other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from clat.core.errors import ClatError
from clat.core.files import is_temporary, read_json, write_json, write_text
from clat.recipe.toml import read_recipe, recipe_toml
from clat.report.page import write_report
from clat.runtime.jobs.job import JobPlace, JobStatus, why_failed
from clat.runtime.jobs.schedule import PATIENCE, STOPPED
from clat.runtime.jobs.signals import signals_noted
from clat.runtime.layout import without_launcher
from clat.studies.beside import run_rows_beside
from clat.studies.collect import collect, write_table
from clat.studies.row import Row, Scale, Study, seeded
from clat.studies.row_words import finished, row_words
from clat.training.interrupt import Interrupted
from clat.training.status import DIED, run_status

FOLDERS = ("recipes", "runs", "logs")


def run_study(
    study: Study, scale: Scale, rows: Sequence[Row], out: Path, console: Console, place: JobPlace | None = None
) -> dict[str, Any]:
    """Train and measure rows, each in a process of its own, going on where an earlier call was stopped.

    The folder holds recipes/ROW.toml, runs/ROW (see `clat.training.run`) and logs/ROW.log; after each row
    table.json and table.md are written anew, with the rows that other calls have finished here, so that several may
    share the folder. A row that fails is named in the table with its message, and the others go on.

    Args:
        study: the study.
        scale: one of its scales.
        rows: the rows to run, what they build on first.
        out: the study's folder: new, empty, or the one of an earlier call.
        console: where progress is printed.
        place: where rows run beside one another, see `clat.studies.beside`; None: here, one after the other.

    Returns:
        The table, see `clat.studies.collect.collect`.

    Raises:
        ClatError: If `out` holds another study, or a row of the same name with other settings, or the place
            cannot run a row.
        KeyboardInterrupt: If a row was asked to stop.
    """
    _claim(study, scale, out)
    if study.prepare is not None:
        study.prepare(scale, out)
    files = {row.name: write_recipe(row, out) for row in rows}
    failures: dict[str, str] = {}

    def write() -> dict[str, Any]:
        table = collect(study, scale, _shown(study, scale, rows, out), out, failures)
        write_table(table, out)
        return table

    if place is not None:
        _run_beside(rows, files, out, console, place, failures, write)
        return write()
    for number, row in enumerate(rows, start=1):
        label = f"[{number}/{len(rows)}] {row.name}"
        if _done_before(row, label, out, console):
            continue
        died = run_status(out / "runs" / row.name) == DIED
        console.print(f"{label} ...{' going on with a run that died' if died else ''}", soft_wrap=True)
        start = time.perf_counter()
        failure = run_row(row, files[row.name], out)
        if failure is None:
            console.print(f"{label}: {time.perf_counter() - start:.0f} s", soft_wrap=True)
        else:
            failures[row.name] = failure
            console.print(f"{label}: failed: {failure}", style="red", soft_wrap=True)
        write()
    return write()


def _done_before(row: Row, label: str, out: Path, console: Console) -> bool:
    """Return whether a row has finished in an earlier call, and say so."""
    if not finished(out / "runs" / row.name):
        return False
    _draw_missing_page(out / "runs" / row.name)
    console.print(f"{label}: done before", soft_wrap=True)
    return True


def _run_beside(
    rows: Sequence[Row],
    files: Mapping[str, Path],
    out: Path,
    console: Console,
    place: JobPlace,
    failures: dict[str, str],
    write: Callable[[], object],
) -> None:
    """Run those rows that have not finished beside one another, and note why some failed."""

    def changed(status: JobStatus) -> None:
        if status.ended:
            if status.failure is not None:
                failures[status.job.name] = status.failure
            write()

    todo = [row for row in rows if not _done_before(row, row.name, out, console)]
    run_rows_beside(todo, files, out, place, console, changed)


def _shown(study: Study, scale: Scale, rows: Sequence[Row], out: Path) -> list[Row]:
    """Return `rows` and all that have finished in `out` with the settings they have now, in the study's order."""
    names = {row.name for row in rows}
    every = seeded(study.rows(scale, out), scale.seeds)

    def held(row: Row) -> bool:
        file = out / "recipes" / f"{row.name}.toml"
        return finished(out / "runs" / row.name) and file.exists() and _says(file, row)

    return [row for row in every if row.name in names or held(row)]


def _draw_missing_page(run: Path) -> None:
    """Draw the page of a run that was killed between its end and its page."""
    if not (run / "report.html").exists() and any((run / "evaluations").glob("*.json")):
        write_report(run)


def check_study(study: Study, scale: Scale | None, out: Path) -> Scale | None:
    """Return the scale of the study in a folder.

    Args:
        study: the one that is asked for.
        scale: the one that is asked for; None: any.
        out: the folder.

    Returns:
        The scale; None: there is no study.

    Raises:
        ClatError: If there is another study, or another scale of it.
    """
    file = out / "study.json"
    if not file.exists():
        return None
    held = read_json(file, "move it away, or name a new folder for the study")
    if held.get("study") != study.name or (scale is not None and held.get("scale") != scale.name):
        raise ClatError(
            f"{out} holds the study {held.get('study')} at scale {held.get('scale')}: name another folder"
        )
    return study.at(str(held.get("scale")))


def _claim(study: Study, scale: Scale, out: Path) -> None:
    new = check_study(study, scale, out) is None
    if new and out.exists() and (not out.is_dir() or not all(map(is_temporary, out.iterdir()))):
        raise ClatError(f"{out} holds something already: name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if new:  # first of all, so that a call that is killed here leaves a study
            about = {"study": study.name, "scale": scale.name, "title": study.title}
            write_json(out / "study.json", {**about, "command": ["clat", *sys.argv[1:]]})
        for folder in FOLDERS:
            (out / folder).mkdir(exist_ok=True)
    except OSError as error:
        raise ClatError(f"cannot write to {out}: {error.strerror or error}") from None


def write_recipe(row: Row, out: Path) -> Path:
    """Write a row's recipe to recipes/ROW.toml, or see that the file there says the same.

    Args:
        row: the row.
        out: the folder of recipes, runs and logs.

    Returns:
        The file.

    Raises:
        ClatError: If the file that is there says something else.
    """
    file = out / "recipes" / f"{row.name}.toml"
    if not file.exists():
        write_text(file, recipe_toml(row.recipe))
    elif not _says(file, row):
        raise ClatError(f"{file} differs from what the row '{row.name}' is now: name a new folder for the study")
    return file


_OWN_FILE = re.compile(r'"[^"\n]*/([^"/\n]+\.(?:safetensors|npz))"')


def check_recipe(row: Row, out: Path) -> None:
    """Raise an error for a row whose network was trained by another recipe than the row has now.

    Args:
        row: the row.
        out: the folder of recipes, runs and logs.

    Raises:
        ClatError: If it was.
    """
    file = out / "recipes" / f"{row.name}.toml"
    if not file.exists():
        return
    # Files of the study's own count by their names: the folder may have moved, or be spelt otherwise.
    held, now = (_OWN_FILE.sub(r'"\1"', recipe_toml(one.resolved())) for one in (read_recipe(file), row.recipe))
    if held != now:
        raise ClatError(f"{file} differs from what the row '{row.name}' is now: it cannot be measured as that row")


def _says(file: Path, row: Row) -> bool:
    """Return whether the file has the row's recipe.

    What counts is the recipe as it runs here and not its text, so that a new setting at its default changes
    nothing.
    """
    return read_recipe(file).resolved() == row.recipe.resolved()


def run_row(row: Row, recipe: Path, out: Path) -> str | None:
    """Run or resume one row in a process of its own.

    Args:
        row: the row; of `reuse` the first stages are taken over if that run has finished.
        recipe: its recipe's file.
        out: the folder of recipes, runs and logs.

    Returns:
        None if it finished, else why not, in a line.

    Raises:
        KeyboardInterrupt: If it was asked to stop.
    """
    log = out / "logs" / f"{row.name}.log"
    with log.open("a") as output:
        code = _exit_code([sys.executable, "-m", "clat", *row_words(row, recipe, out)], output)
    if code in STOPPED:
        raise KeyboardInterrupt
    return None if code == 0 else why_failed(code, log)


def _exit_code(command: Sequence[str], output: IO[str]) -> int:
    """Run a command and return its exit code. Where this process is asked to stop, the command is too, and saves
    its state before it leaves; then Interrupted, or KeyboardInterrupt for Ctrl-C, is raised."""
    environment = {**without_launcher(os.environ), "PYTHONUNBUFFERED": "1"}
    with signals_noted() as noted:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        code = None
        while code is None and not noted:
            code = _waited(process, 0.1)
        if noted:
            if noted[0] == signal.SIGTERM or _waited(process, PATIENCE) is None:
                process.send_signal(noted[0])
            code = process.wait()
    if noted:
        raise KeyboardInterrupt if noted[0] == signal.SIGINT else Interrupted(noted[0])
    return code or 0


def _waited(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit code, None if the process is still at work after so long."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
