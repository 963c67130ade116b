"""A `datasets.Dataset` in memory or on disk, as undecoded images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clat.core.errors import ClatError, first_line
from clat.data.columns import WantedColumns, choose_image_column, choose_label_column
from clat.data.local import Part
from clat.data.tables import Columns, arrow_labels


def is_of_datasets(source: Any, *kinds: str) -> bool:
    """Return whether an object is of one of some classes of Hugging Face ``datasets``, which is not imported.

    Args:
        source: any object.
        kinds: names of classes.

    Returns:
        True if it, or a base class of it, is one.
    """
    return any(
        kind.__module__.partition(".")[0] == "datasets" and kind.__name__ in kinds for kind in type(source).__mro__
    )


def has_transform(dataset: Any) -> bool:
    """Return whether the user put a transform into a data set, so that its items are no rows of the table.

    Args:
        dataset: a ``datasets.Dataset``.

    Returns:
        True if its items come out of a function.
    """
    return bool(dataset.format["type"] == "custom")


def names_of_labels(
    dataset: Any, column: Any, rows: Sequence[int] | None, values: np.ndarray
) -> tuple[str, ...] | None:
    """Return the names of the classes that labels are numbers of, where a data set's features say so.

    Args:
        dataset: a ``datasets.Dataset``, whose items may come out of a function.
        column: what an item calls its label; where no column is called so, any column of classes may be it.
        rows: those that the labels are of; None: all.
        values: the labels, (N,) int64.

    Returns:
        The names of a column of classes that has these very labels; None where there is none.
    """
    import datasets  # the user has it loaded

    plain = dataset.with_format(None)
    named = {name: kind for name, kind in plain.features.items() if isinstance(kind, datasets.ClassLabel)}
    for name in [column] if column in plain.features else named:
        if name not in named:
            continue
        stored = plain.select_columns([name]).with_format("arrow")[:].column(name).to_numpy()
        if np.array_equal(stored if rows is None else stored[np.asarray(rows, dtype=np.int64)], values):
            return tuple(named[name].names)
    return None


def open_dataset(dataset: Any, wanted: WantedColumns, name: str) -> Part:
    """Choose the columns of images and of labels.

    Args:
        dataset: its rows may be chosen, shuffled or mapped; its format does not matter.
        wanted: what the user says.
        name: the data set's, for messages.

    Returns:
        The columns, and where they come from.

    Raises:
        ClatError: no such columns, or one that holds no images or labels.
    """
    import datasets  # the user has it loaded

    plain = dataset.with_format(None)
    images = [column for column, kind in plain.features.items() if isinstance(kind, datasets.Image)]
    classes = [column for column, kind in plain.features.items() if isinstance(kind, datasets.ClassLabel)]
    image = choose_image_column(plain.column_names, images, wanted.image_column, name)
    label = choose_label_column(plain.column_names, image, classes, wanted.label_column, name)
    kind = plain.features[label]
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    # Not `dataset.data`, which has the rows that were there before some were chosen.
    values = plain.select_columns([label]).with_format("arrow")[:].column(label)
    labels = arrow_labels(values, Columns(image, label, names), name)
    try:
        rows = plain.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # of pyarrow, which has no common one
        raise ClatError(
            f"column '{image}' of data set '{name}' holds neither encoded images nor paths ({first_line(error)}):"
            " name another with image_column (--image-column)"
        ) from error
    return Part(rows, image, labels, [], Path())
