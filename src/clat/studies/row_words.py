"""The command that trains a row, or goes on with it."""

from __future__ import annotations

from pathlib import Path

from clat.studies.row import Row
from clat.training.status import read_about


def finished(run: Path) -> bool:
    """Return whether a run's folder says that it came to its end.

    Args:
        run: the folder; it need not be there.

    Returns:
        True once `clat train` has written all results.
    """
    return read_about(run).get("status") == "finished"


def row_words(row: Row, recipe: Path, out: Path, *, early: bool = False) -> list[str]:
    """Return the words after `clat` that train a row.

    Args:
        row: the row; of `reuse` the first stages are taken over if that run has finished.
        recipe: its recipe's file.
        out: the folder of runs.
        early: the run in `reuse` has finished the stages that both have, if not the others.

    Returns:
        The words; of a row that has begun, those that go on with it.
    """
    run = out / "runs" / row.name
    if (run / "recipe.toml").exists():
        return ["train", "--resume", str(run)]
    words = ["train", str(recipe), "--out", str(run)]
    if row.reuse is not None and (early or finished(out / "runs" / row.reuse)):
        words += ["--reuse", str(out / "runs" / row.reuse)]
    return words
