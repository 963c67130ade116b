"""The columns of a table: which holds the images and which the labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clat.core.errors import ClatError, unknown
from clat.data.classes import Labels, whole_number

_IMAGE_NAMES = ("image", "img", "file_name", "filename", "file", "path", "image_path")
_LABELS = ("label", "fine_label", "labels")
_LABEL_NAMES = (*_LABELS, "target", "targets", "class")


@dataclass(frozen=True, kw_only=True)
class WantedColumns:
    """The columns and classes that a user names; None leaves the choice to the data set's source."""

    label_column: str | None = None
    """The column to predict."""
    image_column: str | None = None
    """The column of the images: encoded files, or the paths of files."""
    classes: tuple[str, ...] | None = None
    """The classes in the order of a network's outputs."""

    @property
    def columns(self) -> bool:
        """Return True if a column is named."""
        return self.label_column is not None or self.image_column is not None


def choose_image_column(columns: Collection[str], images: Sequence[str], wanted: str | None, name: str) -> str:
    """Choose the column that holds the images.

    It is the wanted one, else of `images` one of a usual name or the first, else any column of a usual name, such
    as ``image`` or ``file_name``.

    Args:
        columns: the names of all columns.
        images: those that hold images by type.
        wanted: the column that the user names; None leaves the choice to the names.
        name: the data set's, for messages.

    Returns:
        One of `columns`.

    Raises:
        ClatError: no such column.
    """
    if wanted is not None and wanted not in columns:
        raise unknown("image column", wanted, columns)
    usual = [column for column in _IMAGE_NAMES if column in columns]
    found = wanted or next(iter([*(column for column in usual if column in images), *images, *usual]), None)
    if found is None:
        raise ClatError(
            f"data set '{name}' has no image column; its columns: {', '.join(columns) or 'none'}; name one: "
            "image_column, or --image-column on the command line"
        )
    return found


def choose_label_column(
    columns: Collection[str], image: str, classes: Sequence[str], wanted: str | None, name: str
) -> str:
    """Choose the column that holds the labels.

    It is the wanted one, else of `classes` one of a usual name, else one called ``label``, ``fine_label`` or
    ``labels``, else the first of `classes`, else any column of a usual name, such as ``target``.

    Args:
        columns: the names of all columns.
        image: the column of the images, which is no choice.
        classes: those that hold classes by type.
        wanted: the column that the user names; None leaves the choice to the names.
        name: the data set's, for messages.

    Returns:
        One of `columns`.

    Raises:
        ClatError: no such column.
    """
    others = [column for column in columns if column != image]
    if wanted is not None and wanted not in others:
        raise unknown("label column", wanted, others)
    usual = [column for column in _LABEL_NAMES if column in classes]
    called = [column for column in _LABELS if column in others]
    rest = [column for column in _LABEL_NAMES if column in others]
    found = wanted or next(iter([*usual, *called, *classes, *rest]), None)
    if found is None:
        raise ClatError(
            f"data set '{name}' has no label column (columns: {', '.join(columns)}): name one with label_column or "
            "--label-column, or sort the images into one folder a class"
        )
    return found


def to_labels(values: list[Any] | np.ndarray, names: Sequence[str] | None, column: str, name: str) -> Labels:
    """Return a column's values as labels: whole numbers, or names as text.

    Args:
        values: (N,); an array is one of whole numbers; text that is nothing but whole numbers (3, 3.0, -1), truth
            values and floats without a fraction count as numbers.
        names: the classes that the numbers stand for, where the table says so.
        column: the column's name, for messages.
        name: the data set's, for messages.

    Returns:
        The values as int64, or as text in Unicode's composed form (NFC) without spaces around it.

    Raises:
        ClatError: other values, gaps among them, or numbers beyond the names.
    """
    where = f"column '{column}' of data set '{name}'"
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        values = [value.strip() for value in values]
        if "" in values:
            raise ClatError(f"row {values.index('')} of {where} holds no label")
        whole = [whole_number(value) for value in values]
        if None in whole:
            return Labels(np.array([unicodedata.normalize("NFC", value) for value in values], dtype=object))
        values = whole
    if isinstance(values, list):
        given = values
        values = [_as_whole(value) for value in given]
        row = next((row for row, value in enumerate(values) if type(value) is not int), None)
        if row is not None:
            raise ClatError(
                f"label {where} is not made of whole numbers or names without gaps: row {row} holds {given[row]!r}"
            )
    numbers = np.asarray(values).astype(np.int64)
    if names is not None and len(numbers) and numbers.max() >= len(names):
        row = int(numbers.argmax())
        raise ClatError(f"row {row} of {where} is class {numbers[row]}, but only {len(names)} classes have names")
    return Labels(numbers, None if names is None else tuple(map(str, names)))


def _as_whole(value: Any) -> Any:
    """Return the whole number that a truth value or a float without a fraction is; anything else as it is."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole or isinstance(value, bool) else value
