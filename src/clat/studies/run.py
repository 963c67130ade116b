"""Running a study row by row, each in a process of its own: its memory is its own, and a failure ends no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from clat.core.errors import ClatError
from clat.core.files import write_json, write_text
from clat.recipe.toml import read_recipe, recipe_toml
from clat.studies.collect import collect, write_table
from clat.studies.row import Row, Scale, Study, seeded
from clat.training.status import DIED, read_about, run_status

STOPPED = (130, 143)
"""Exit codes of a run that was asked to stop."""


def run_study(study: Study, scale: Scale, rows: Sequence[Row], out: Path, console: Console) -> dict[str, Any]:
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

    Returns:
        The table, see `clat.studies.collect.collect`.

    Raises:
        ClatError: If `out` holds another study, or a row of the same name with other settings.
        KeyboardInterrupt: If a row was asked to stop.
    """
    _claim(study, scale, out)
    if study.prepare is not None:
        study.prepare(scale, out)
    files = {row.name: write_recipe(row, out) for row in rows}
    failures: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        label = f"[{number}/{len(rows)}] {row.name}"
        if finished(out / "runs" / row.name):
            console.print(f"{label}: done before")
            continue
        died = run_status(out / "runs" / row.name) == DIED
        console.print(f"{label} ...{' going on with a run that died' if died else ''}")
        start = time.perf_counter()
        failure = run_row(row, files[row.name], out)
        if failure is None:
            console.print(f"{label}: {time.perf_counter() - start:.0f} s")
        else:
            failures[row.name] = failure
            console.print(f"{label}: failed: {failure}", style="red")
        write_table(collect(study, scale, _shown(study, scale, rows, out), out, failures), out)
    table = collect(study, scale, _shown(study, scale, rows, out), out, failures)
    write_table(table, out)
    return table


def _shown(study: Study, scale: Scale, rows: Sequence[Row], out: Path) -> list[Row]:
    """Return `rows` and all that have finished in `out` with the settings they have now, in the study's order."""
    names = {row.name for row in rows}
    every = seeded(study.rows(scale, out), scale.seeds)

    def held(row: Row) -> bool:
        file = out / "recipes" / f"{row.name}.toml"
        return finished(out / "runs" / row.name) and file.exists() and _says(file, row)

    return [row for row in every if row.name in names or held(row)]


def finished(run: Path) -> bool:
    """Return whether a run's folder says that it came to its end.

    Args:
        run: the folder; it need not be there.

    Returns:
        True once `clat train` has written all results.
    """
    return read_about(run).get("status") == "finished"


def _claim(study: Study, scale: Scale, out: Path) -> None:
    file = out / "study.json"
    about = {"study": study.name, "scale": scale.name}
    if file.exists():
        held = json.loads(file.read_text())
        if {key: held.get(key) for key in about} != about:
            raise ClatError(
                f"{out} holds the study {held.get('study')} at scale {held.get('scale')}: name a new folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClatError(f"{out} holds something already: name a new folder")
    for folder in ("recipes", "runs", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_json(file, {**about, "title": study.title, "command": ["clat", *sys.argv[1:]]})


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
    run, log = out / "runs" / row.name, out / "logs" / f"{row.name}.log"
    if (run / "recipe.toml").exists():
        words = ["--resume", str(run)]
    else:
        words = [str(recipe), "--out", str(run)]
        if row.reuse is not None and finished(out / "runs" / row.reuse):
            words += ["--reuse", str(out / "runs" / row.reuse)]
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "clat", "train", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C reaches the run as well, which saves its state before it leaves
            process.wait()
            raise
    if code in STOPPED:
        raise KeyboardInterrupt
    if code < 0:  # it was not asked to stop, so it could not say anything
        return f"died of {signal.Signals(-code).name}: run the study again to go on with it"
    return None if code == 0 else _last_line(log)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("clat: error: ") if lines else "no message"
