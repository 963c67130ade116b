"""Parquet and Arrow files, read literally and without trust.

Their columns of images and labels are copied to one Arrow file, in bounded memory, which is then mapped: so images
can be fetched in any order. Nothing else in the files is read, and nothing in them is ever executed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clat.core.errors import ClatError
from clat.core.files import new_file
from clat.data.batches import read_batches, read_schema
from clat.data.classes import Labels
from clat.data.columns import WantedColumns, choose_image_column, choose_label_column, to_labels
from clat.data.lists import leading_word
from clat.data.split_names import split_meant, word_of_split
from clat.data.tree import Tree, ending

TABLES = frozenset((".parquet", ".arrow"))

_NUMBER = re.compile(r"(-of-\d+)(?:-[0-9a-f]{16})?|[-_. ]*\d+")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.\w+")


@dataclass(frozen=True)
class Columns:
    """The two columns of interest, and the names of the classes where the files say them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def find_tables(tree: Tree, name: str) -> dict[str, list[str]]:
    """Find the Parquet and Arrow files of each split.

    They are those in a folder of the split's name, else those whose names begin with it
    (``train-00000-of-00003.parquet``) or have it among their words (``mnist_train.parquet``).

    Args:
        tree: the data set's folder.
        name: the data set's name, for messages.

    Returns:
        The paths of each split, by its name; all are ``train`` where none says a split.

    Raises:
        ClatError: a file of no split among others that have one, a split in several folders, or files that may be
            several versions of one split.
    """
    found: dict[str, list[str]] = {}
    unnamed: list[str] = []
    for path in tree.below("", TABLES):
        *folders, file = path.split("/")
        if file.startswith("cache-") and ending(file) == ".arrow":  # what `datasets` leaves behind
            continue
        shard = _SHARD.fullmatch(file)
        word = leading_word(file)
        if folders and split_meant(folders[0]):
            split = folders[0]
        elif split_meant(word):
            split = word
        elif (inside := word_of_split(os.path.splitext(file)[0])) is not None:
            split = inside
        elif shard and shard[1] != "data":
            split = shard[1]
        else:
            unnamed.append(path)
            continue
        found.setdefault(split, []).append(path)
    if found and unnamed:
        raise ClatError(
            f"data set '{name}': which split is {unnamed[0]} of? Put it into a folder such as train, or move it"
            " away"
        )
    for split, paths in (found or {"train": unnamed}).items():
        folders = sorted({os.path.dirname(path) for path in paths})
        if len(folders) > 1 and not all(path.startswith(f"{split}/") for path in paths):
            raise ClatError(
                f"split '{split}' of data set '{name}' lies in several folders ({', '.join(folders)}): give one of"
                " them as the data set"
            )
        versions = {_NUMBER.sub(_count_alone, os.path.basename(path)): path for path in paths}
        if found and len(versions) > 1 and not all(path.startswith(f"{split}/") for path in paths):
            raise ClatError(
                f"data set '{name}': {' and '.join(list(versions.values())[:2])} both say split '{split}': put all"
                f" that belongs to it into a folder {split}, or keep one of them if they are versions of it"
            )
    return found or {"train": unnamed}


def _count_alone(number: re.Match[str]) -> str:
    """Return nothing for the number of a file among a split's, and how many there are, if its name says so."""
    return number[1] or ""


def missing_shards(paths: Sequence[str]) -> list[str]:
    """Return a note when names such as ``train-00000-of-00003.parquet`` show that other files are not there.

    Args:
        paths: the files of one split.

    Returns:
        One note, or none.
    """
    shards = [match.groups()[1:] for path in paths if (match := _SHARD.search(os.path.basename(path)))]
    present, total = {index for index, _ in shards}, max((int(total) for _, total in shards), default=0)
    return [f"only {len(present)} of {total} files are there"] if len(present) < total else []


def read_columns(root: Path, paths: Sequence[str], wanted: WantedColumns, name: str) -> Columns:
    """Choose the columns by what the files say of them.

    Args:
        root: the data set's folder.
        paths: the files of one split, at least one.
        wanted: columns that the user names.
        name: the data set's, for messages.

    Returns:
        The columns that all the files share.

    Raises:
        ClatError: no such columns, or files that number their classes differently.
    """
    found: Columns | None = None
    for path in paths:
        schema = read_schema(root / path)
        features = _features(schema)
        images = [column for column, kind in features.items() if kind.get("_type") == "Image"]
        classes = [column for column, kind in features.items() if _class_names(kind)]
        image = choose_image_column(schema.names, images, wanted.image_column, name)
        label = choose_label_column(schema.names, image, classes, wanted.label_column, name)
        here = Columns(image, label, _class_names(features.get(label, {})))
        if found is not None and here != found:
            raise ClatError(
                f"data set '{name}': {path} has other columns or classes than {paths[0]}: they belong to different"
                " data sets"
            )
        found = here
    assert found is not None
    return found


def read_labels(root: Path, paths: Sequence[str], columns: Columns, name: str) -> Labels:
    """Read the labels alone.

    Args:
        root: the data set's folder.
        paths: the files of one split.
        columns: as `read_columns` chose them.
        name: the data set's, for messages.

    Returns:
        The labels in the order of the files and their rows.

    Raises:
        ClatError: values that are no labels, see `to_labels`, or a file that unpacks to too much.
    """
    parts = []
    for path in paths:
        for batch in read_batches(root / path, [columns.label]):
            parts.append(batch.column(columns.label))
    return arrow_labels(pa.chunked_array(parts or [pa.array([], pa.int64())]), columns, name)


def arrow_labels(values: pa.ChunkedArray, columns: Columns, name: str) -> Labels:
    """Return a column as labels; see `to_labels`.

    Args:
        values: the column.
        columns: names the column and its classes, where the files say them.
        name: the data set's, for messages.

    Returns:
        Its values, row by row.

    Raises:
        ClatError: values that are no labels.
    """
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    plain = not values.null_count and pa.types.is_integer(kind) and not pa.types.is_dictionary(values.type)
    return to_labels(values.to_numpy() if plain else values.to_pylist(), columns.names, columns.label, name)


def open_rows(root: Path, paths: Sequence[str], columns: Columns) -> Any:
    """Copy the two columns to an Arrow file in the Hugging Face cache and map it.

    The copy is found again as long as no source changes.

    Args:
        root: the data set's folder.
        paths: the files of one split.
        columns: as `read_columns` chose them.

    Returns:
        A map-style data set, whose column `columns.image` gives ``{"bytes", "path"}``.

    Raises:
        ClatError: a file that unpacks to more than any file of images would.
    """
    import datasets  # here, since it takes a second to import

    name = _copy_name(root, paths, columns)
    target = Path(hf_cache()) / "clat" / name
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(_write(root, paths, columns, target.parent), target)
        except OSError:  # a full disk
            target = _write(root, paths, columns, Path(temporary_folder().name))
    rows = datasets.Dataset.from_file(str(target))
    return rows.cast_column(columns.image, datasets.Image(decode=False))


def image_paths(rows: Any, column: str) -> list[str]:
    """Return the paths of the images that a table only names.

    Args:
        rows: as `open_rows` gives them.
        column: of the images.

    Returns:
        The paths as the table has them, without those of images that lie in it.
    """
    found: list[str] = []
    for stored in rows.data.column(column).chunks:
        named = pc.is_null(pc.struct_field(stored, "bytes"))
        found += pc.struct_field(stored, "path").filter(named).drop_null().to_pylist()
    return found


def _copy_name(root: Path, paths: Sequence[str], columns: Columns) -> str:
    """Return a name that follows from the sources' paths, sizes and times."""
    digest = hashlib.blake2b(repr(columns).encode(), digest_size=16)
    for path in paths:
        stat = os.stat(root / path)
        digest.update(os.fsencode(f"{os.path.realpath(root / path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return f"{digest.hexdigest()}.arrow"


def _write(root: Path, paths: Sequence[str], columns: Columns, folder: Path) -> Path:
    """Write the copy under a name of its own; nothing is left behind where that fails."""
    written = new_file(folder, "tmp", ".part")
    try:
        with open(written, "wb") as file:
            _copy(root, paths, columns, file)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    return written


def _replace(written: Path, target: Path) -> None:
    try:
        os.replace(written, target)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def _copy(root: Path, paths: Sequence[str], columns: Columns, file: Any) -> None:
    wanted = [columns.image, columns.label]
    schema = pa.schema([read_schema(root / paths[0]).field(column) for column in wanted]).remove_metadata()
    with pa.ipc.new_stream(file, schema) as writer:
        for path in paths:
            for batch in read_batches(root / path, wanted):
                writer.write_batch(pa.record_batch(batch.columns, schema=schema))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what `datasets` writes of each column into a schema.

    It is {"_type": "ClassLabel", "names": [...]} and the like.
    """
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: kind for column, kind in found.items() if column in schema.names and isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def hf_cache() -> str:
    """Return the Hugging Face cache, or a temporary folder where that cannot be written (a read-only home).

    Returns:
        The path of a folder that exists.
    """
    import datasets

    folder = str(datasets.config.HF_DATASETS_CACHE)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return temporary_folder().name


@functools.cache
def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of the process; it is removed when the process ends.

    Returns:
        The same folder at each call.
    """
    return tempfile.TemporaryDirectory(prefix="clat-tables-", ignore_cleanup_errors=True)
