"""Before anything is run: whether the data are there, and whose the folder is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from clat.core.errors import ClatError
from clat.core.files import read_json, write_json
from clat.data.cache import data_root
from clat.data.sources import locate
from clat.studies.paper.scales import PaperScale

LAYOUTS = {
    "imagenet": "train/ and val/, in each a folder of images a class",
    "svhn": "the Hugging Face parquet files of its cropped digits, train-*.parquet and test-*.parquet",
}
"""What a folder of a data set that the hub does not give away, or not under its name, has to hold."""


def in_one_spelling(folders: Mapping[str, str]) -> dict[str, str]:
    """Return where data sets lie so that one folder is always called the same: networks are told apart by it.

    Args:
        folders: data set -> a folder of it, or what else `--data` takes.

    Returns:
        Without those that lie where their name is looked for, and the others as absolute paths.
    """
    spelled = {name: _spelled(folder) for name, folder in folders.items()}
    return {name: folder for name, folder in spelled.items() if folder != _spelled(name)}


def _spelled(folder: str) -> str:
    try:
        found = None if folder == "digits" else locate(folder)
    except ClatError:  # which is said where the data are asked for
        found = None
    return folder if found is None else str(found.resolve())


def check_data(datasets: Sequence[str], folders: Mapping[str, str]) -> dict[str, str]:
    """Return the data sets that cannot be read, each with what to put where.

    Args:
        datasets: names.
        folders: data set -> a folder of it.

    Returns:
        Data set -> the message of the error; empty if all are there.
    """
    missing = {}
    for name in datasets:
        if folders.get(name) == "digits":  # which come with scikit-learn, and need no folder
            continue
        try:
            found = locate(folders.get(name, name))
        except ClatError as error:
            missing[name] = str(error)
            if name in LAYOUTS and name not in folders:
                missing[name] = (
                    f"data set '{name}' is not in {data_root()} (CLAT_DATA_DIR): put {LAYOUTS[name]}, into "
                    f"{data_root() / name}, or say where they are with --data {name}=FOLDER"
                )
        else:
            if found is None:
                missing[name] = f"data set '{folders[name]}' is no folder: name one, {name}=FOLDER"
    return missing


def claim(out: Path, scale: PaperScale, command: Sequence[str]) -> None:
    """Make a folder the place of tables at one scale, or see that it is.

    Args:
        out: a new or empty folder, or one that an earlier call claimed.
        scale: of all its tables.
        command: what was typed, which is recorded.

    Raises:
        ClatError: If the folder holds another scale, a single table, or something else.
    """
    file = out / "paper.json"
    if file.exists():
        held = read_json(file, "restore it, or name a new folder").get("scale")
        if held != scale.name:
            raise ClatError(f"{out} holds tables at scale {held}: name another folder for {scale.name}")
        return
    if (out / "table.json").exists() and (out.parent / "paper.json").exists():
        raise ClatError(f"{out} is the folder of one table: name the one above it, {out.parent}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClatError(f"{out} holds something already: name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClatError(f"cannot write to {out}: {error.strerror or error}") from None
    write_json(file, {"what": "paper", "scale": scale.name, "command": list(command)})


@contextmanager
def known_or_empty(out: str | None, scale: PaperScale) -> Iterator[Path]:
    """Give a plan the folder whose networks need no training: the one that is named if it is one of tables.

    Args:
        out: the folder; None: no one is named.
        scale: of all its tables.

    Yields:
        The folder, or an empty one for the time of the body.

    Raises:
        ClatError: If the folder holds another scale.
    """
    if out is not None and (Path(out) / "paper.json").exists():
        claim(Path(out), scale, [])
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as empty:
        yield Path(empty)
