"""Lists of images and their labels: metadata.csv, train.csv or .jsonl beside the files that they name."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError
from clat.core.parsing import parse_json
from clat.data.split_names import split_meant
from clat.data.tree import Tree, ending

LISTS = frozenset((".csv", ".jsonl"))


def leading_word(file: str) -> str:
    """Return the word that the name of a file begins with.

    Args:
        file: the name alone, without its path.

    Returns:
        The letters before a dash, an underscore, a dot, a space or a digit, or the whole name; "" where there are
        none.

    >>> leading_word("train-00000-of-00003.parquet"), leading_word("train2.csv")
    ('train', 'train')
    """
    found = re.match(r"[A-Za-z]+(?=$|[-_. \d])", file)
    return found[0] if found else ""


def named_lists(tree: Tree) -> dict[str, list[str]]:
    """Find the lists at the top whose names begin with that of a split: train.csv, val-2.jsonl.

    Args:
        tree: the data set's folder.

    Returns:
        The files of each split, by the word that their names begin with.
    """
    found: dict[str, list[str]] = {}
    for file in tree.files("", LISTS):
        if split_meant(word := leading_word(file)):
            found.setdefault(word, []).append(file)
    return found


def read_list(root: Path, path: str) -> dict[str, list[Any]]:
    """Read a list, column by column; those of a .csv hold text, whatever it looks like.

    Args:
        root: the data set's folder.
        path: the list in it, .csv or .jsonl, in UTF-8.

    Returns:
        The values of each column that the first row has, row by row, None where another row of a .jsonl has none;
        nothing without rows.

    Raises:
        ClatError: no text, rows of a .csv of different lengths, broken JSON, or JSON that is no table.
    """
    try:
        with open(root / path, encoding="utf-8-sig", newline="") as file:
            if ending(path) == ".jsonl":
                rows = [parse_json(line) for line in file if line.strip()]
            else:
                rows = list(csv.DictReader(file, strict=True))
    except UnicodeDecodeError:
        raise ClatError(f"{path} is not text in UTF-8: save it as such") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise ClatError(f"cannot read {path}: {error}") from None
    except OSError as error:
        raise ClatError(f"cannot read {path}: {error.strerror or error}") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ClatError(
                f'row {number} of {path} is no table of columns, such as {{"file_name": ..., "label": ...}}'
            )
        if ending(path) == ".csv" and (None in row or None in row.values()):
            raise ClatError(f"row {number} of {path} has not the columns of its first line: {', '.join(rows[0])}")
    columns = [column for column, value in rows[0].items() if value is not None] if rows else []
    return {column: [row.get(column) for row in rows] for column in columns}
