"""Write files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError
from clat.core.parsing import parse_json


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and move it into place.

    Args:
        path: the file to write or replace, in a folder that exists.
        write: called once with the path of the temporary file, which it is to fill.

    Raises:
        ClatError: the folder is missing, read-only or full; `path` is then as before.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        temporary = new_file(path.parent, f".{path.name}.", ".tmp")
        rights = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(rights)
        os.replace(temporary, path)
    except OSError as error:
        raise ClatError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def new_file(folder: Path, prefix: str, suffix: str) -> Path:
    """Make an empty file of a name of its own, with the rights that files get there, unlike those of tempfile.

    Args:
        folder: where.
        prefix: how its name begins.
        suffix: how its name ends.

    Returns:
        The file.

    Raises:
        OSError: it cannot be made there.
    """
    file = folder / f"{prefix}{secrets.token_hex(4)}{suffix}"
    file.touch(exist_ok=False)
    return file


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return what a JSON file of ours holds.

    Args:
        path: the file.
        advice: what the user can do where it is damaged.

    Returns:
        Its object.

    Raises:
        ClatError: it is not there, is damaged, or holds something else than an object.
    """
    try:
        held = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict):
        raise ClatError(f"{path} cannot be read: it is missing or damaged; {advice}")
    return held


def is_temporary(path: Path) -> bool:
    """Return whether a file is one that `replace_file` had not moved into place when its process was killed.

    Args:
        path: the file.

    Returns:
        True if its name is such a file's.
    """
    return path.name.startswith(".") and path.suffix in (".tmp", ".part")


def clear_temporaries(folder: Path) -> None:
    """Remove what a killed process left in a folder.

    Args:
        folder: into which nobody else is writing.
    """
    for file in folder.glob(".*"):
        if is_temporary(file):
            file.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: the file to write or replace, in a folder that exists.
        text: all of its content.

    Raises:
        ClatError: the file cannot be written.
    """
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, data: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all.

    Args:
        path: the file to write or replace, in a folder that exists.
        data: dicts, lists, text, finite numbers, booleans and None.

    Raises:
        ClatError: the file cannot be written.
    """
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


class SavedAsJson:
    """Base of results: what they hold as plain data, and its file."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, of which JSON is written.

        Returns:
            Dicts, lists, text, finite numbers, booleans and None.
        """
        raise NotImplementedError

    def to_json(self, path: str | Path) -> None:
        """Write the result as JSON.

        Args:
            path: the file, which is replaced in one step if there is one.

        Raises:
            ClatError: the file cannot be written.
        """
        write_json(path, self.to_dict())


def claim_output(path: str | Path) -> Path:
    """Check, before hours of work, that a result can be written where the user asked.

    Args:
        path: the file or folder to be; missing folders above it are made.

    Returns:
        The path.

    Raises:
        ClatError: it exists already (nothing is overwritten), or its folder cannot be written to.
    """
    path = Path(path)
    if path.exists():
        raise ClatError(f"{path} exists already: name another file, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ClatError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    return path
