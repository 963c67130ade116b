"""A run's folder: taken by one run alone, with its recipe, and run.json, which says how the run stands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError
from clat.core.files import is_temporary, write_json, write_text
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_toml
from clat.training.about import now
from clat.training.lock import LOCK, only_one_in
from clat.training.status import read_about

FOLDERS = ("weights", "criticality", "evaluations", "states")


def refuse_taken(out: Path, beside: Collection[str] = ()) -> None:
    """Raise an error if a folder holds anything, so that a run would overwrite it.

    What a run leaves that died before its recipe was written is nothing.

    Args:
        out: the folder, which need not exist.
        beside: names of files that are written before the recipe.

    Raises:
        ClatError: it does, or is a file.
    """

    def is_nothing(held: Path) -> bool:
        if held.name in FOLDERS:
            return held.is_dir() and not any(held.iterdir())
        return held.name == LOCK or is_temporary(held) or held.name in beside

    if out.exists() and not out.is_dir():
        raise ClatError(f"{out} is a file: name a new folder")
    begun = (out / "recipe.toml").exists()
    if out.exists() and (begun or not all(map(is_nothing, out.iterdir()))):
        what = "another run" if begun else "something"
        raise ClatError(f"{out} holds {what} already: name a new folder, or go on with --resume {out}")


def no_run(out: Path, what: str, lacking: str) -> ClatError:
    """Return the error for a folder in which there is nothing to go on with.

    Args:
        out: the folder as it was named, which may not be there.
        what: what is looked for, such as "run to resume".
        lacking: the file that it would have.

    Returns:
        The error, for the caller to raise.
    """
    if not out.exists():
        return ClatError(f"no {what}: there is no folder {out}")
    if not out.is_dir():
        return ClatError(f"no {what}: {out} is a file, name the folder")
    return ClatError(f"{out} holds no {what}: there is no {lacking} in it")


@contextmanager
def claimed(
    out: Path, recipe: Recipe, beside: Mapping[str, Any], given: Mapping[str, str | None]
) -> Iterator[None]:
    """Make a run's folder, with its recipe, and keep it for this run alone while the body runs.

    Args:
        out: the folder, new or empty.
        recipe: the resolved recipe, which becomes recipe.toml.
        beside: JSON files to write beside it, by name.
        given: what came from Python in place of what the recipe names; recipe.toml says so in its first lines.

    Yields:
        Nothing; the body runs.

    Raises:
        ClatError: the folder holds something, another process is training there, or it cannot be written.
    """
    _make(out)
    with only_one_in(out):
        refuse_taken(out, beside)  # again, now that nobody else can write there
        for folder in FOLDERS:
            _make(out / folder)
        for name, record in beside.items():
            write_json(out / name, record)
        write_text(out / "recipe.toml", _origins(given) + recipe_toml(recipe))
        yield


def _origins(given: Mapping[str, str | None]) -> str:
    """Return comments on what a recipe file alone does not bring back."""
    tables = {"model": "[model]", "data": "[data]", "augment": "data.augment"}
    return "".join(
        f"# This run was given its {name} from Python ({given[name]}): `clat train` with this file takes what"
        f" {table} says.\n"
        for name, table in tables.items()
        if given.get(name) is not None
    )


def recorder(out: Path, about: dict[str, Any]) -> Callable[[str], None]:
    """Return a function that writes run.json with a status.

    Args:
        out: the run's folder.
        about: what run.json says beside the status; a resumed run gets here the time when it first started.

    Returns:
        A function of the status, such as "running" or "finished"; any but "running" is written with the time.
    """
    file = out / "run.json"
    if file.exists():
        about["started"] = read_about(out).get("started", about["started"])

    def record(status: str) -> None:
        finished = None if status == "running" else now()
        write_json(file, {**about, "status": status, "finished": finished})

    return record


def _make(folder: Path) -> None:
    """Make a folder and those above it, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClatError(f"cannot write to {folder}: {error.strerror or error}") from None
