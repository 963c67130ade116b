"""Before anything is run: whether the data are there, and whose the folder is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from clat.core.errors import ClatError
from clat.core.files import write_json
from clat.data.sources import locate
from clat.studies.paper.scales import PaperScale


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
        held = json.loads(file.read_text()).get("scale")
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
