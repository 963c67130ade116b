"""Finding a data set and opening one split of it as a table.

Folders are read literally (`clat.data.local`), the hub by Hugging Face ``datasets``. This file is where foreign
names, layouts and exceptions end: it gives out a plain `ImageTable` or one clear line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clat.core.errors import ClatError, first_line, nearest
from clat.data.cache import data_root
from clat.data.classes import Labels, number_classes
from clat.data.columns import WantedColumns, choose_image_column, choose_label_column
from clat.data.fetch import KNOWN
from clat.data.local import Part, Source, open_folder
from clat.data.split_names import find_split, train_of
from clat.data.tables import Columns, arrow_labels, missing_shards
from clat.data.tables import hf_cache as _hf_cache

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_HUB_TIMEOUT = 10.0  # seconds
_READABLE = ("parquet", "arrow")


@dataclass(frozen=True)
class ImageTable:
    """One split: undecoded images, labels, and what a reader should know about it."""

    rows: Any
    """Its column `image_column` gives ``{"bytes", "path"}``."""
    image_column: str
    labels: torch.Tensor
    """int64, shape (N,)."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    root: Path | None
    """Where the paths of images begin."""
    fingerprint: str
    """A text that changes with the content, for a set from the hub; else empty."""
    outside: tuple[str, ...] = ()
    """The paths of its images that a walk through the folder does not meet; see `Part`."""


def locate(name: str) -> Path | None:
    """Return the folder that `name` means, or None when it is the name of a data set on the hub.

    A bare name is looked for in `data_root` and then in the working directory; anything else is a path, or
    ``owner/name`` (``owner/name:config`` where the hub asks for one) when no such folder exists.

    Args:
        name: as a user gives it; ~ is the home folder.

    Returns:
        An existing folder; None for the hub.

    Raises:
        ClatError: nothing there; it says which folder was looked in and what to put there.
    """
    if not name.strip():
        raise ClatError("data set name is empty: give a known name such as cifar10, a folder or a hub owner/name")
    path = Path(name if os.path.isdir(name) else os.path.expanduser(name))
    if os.path.basename(name) == name and name not in (".", ".."):
        known = data_root() / name
        if os.path.isdir(known):
            return known
        if re.fullmatch(r"\w[\w.-]*", name) and not os.path.exists(path):
            raise _not_found(name)
    if os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise ClatError(f"data set '{name}' is a file: give the folder that holds it")
    if _HUB_NAME.fullmatch(name) and not name.startswith("."):
        return None
    raise ClatError(
        f"data set folder '{name}' not found: give an existing folder, a known name or a hub owner/name"
    )


def _not_found(name: str) -> ClatError:
    """Return the error for a bare name that is no folder, in neither of the places that it is looked for in."""
    known = data_root() / name
    where = f"data set '{name}' not found in {data_root()} (CLAT_DATA_DIR) or in the current folder"
    if name in KNOWN:
        return ClatError(
            f"{where}: put the Hugging Face parquet files (train-*.parquet, test-*.parquet) into {known};"
            f" `clat data fetch {name}` gets them from the hub"
        )
    near = nearest(name, {"digits", *KNOWN, *_folders(data_root()), *_folders(Path.cwd())})
    hint = f"did you mean '{near}'? " if near else ""
    return ClatError(f"{where}; {hint}give the path of a folder of images or tables, or a hub owner/name")


def _folders(place: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(place) if entry.is_dir()]
    except OSError:
        return []


def open_source(name: str, folder: Path | None, wanted: WantedColumns) -> Source:
    """Open a folder, or a data set of the hub.

    Args:
        name: as for `locate`; a hub name when `folder` is None.
        folder: as `locate` found it; None: the hub.
        wanted: columns and classes that the user names.

    Returns:
        The data set with its splits, none of them read yet.

    Raises:
        ClatError: nothing readable there, or hub unreachable.
    """
    if folder is not None:
        return open_folder(folder, name, wanted)
    import datasets  # here, since it takes a second to import and a folder of images does not need it

    with _quiet(datasets):
        return Hub(name, _open_hub(datasets, name), wanted)


def open_table(name: str, folder: Path | None, split: str, wanted: WantedColumns) -> ImageTable:
    """Open one split of a folder, or of a data set of the hub.

    Args:
        name: as for `locate`; a hub name when `folder` is None.
        folder: as `locate` found it; None: the hub.
        split: the split that is asked for, see `find_split`.
        wanted: columns and classes that the user names.

    Returns:
        Its images, undecoded, with labels and notes.

    Raises:
        ClatError: nothing readable there, hub unreachable, no such split, no images or no labels.
    """
    with one_line(name):
        source = open_source(name, folder, wanted)
        found, notes = find_split(split, source.splits, name, folder)
        return read_table(source, found, name, wanted, notes)


def read_table(
    source: Source, split: str, name: str, wanted: WantedColumns, notes: tuple[str, ...] = ()
) -> ImageTable:
    """Read a split of a source, its classes numbered as the whole data set has them.

    Args:
        source: the open data set.
        split: the name of one of its splits.
        name: the data set's, for messages.
        wanted: columns and classes that the user names.
        notes: what is known of it already.

    Returns:
        Its images, undecoded, with labels and notes.

    Raises:
        ClatError: no images or no labels.
    """
    part = source.read(split)
    if len(part.rows) == 0:
        raise ClatError(f"split '{split}' of data set '{name}' is empty")
    labels, class_names, more = number_classes(
        part.labels,
        source.known_labels(split),
        wanted.classes,
        f"{name}/{split}",
        as_they_are=wanted.label_column is not None,
    )
    return ImageTable(
        rows=part.rows,
        image_column=part.image_column,
        labels=torch.from_numpy(labels),
        class_names=class_names,
        notes=(*notes, *part.notes, *more),
        root=part.root,
        fingerprint=str(getattr(part.rows, "_fingerprint", "")),
        outside=part.outside,
    )


@dataclass(frozen=True)
class Hub:
    """A data set of the hub, by its builder of ``datasets``."""

    name: str
    builder: Any
    wanted: WantedColumns

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(str(key) for key in (self.builder.config.data_files or self.builder.info.splits or ()))

    def read(self, split: str) -> Part:
        import datasets

        rows, columns = self._open(split)
        labels = arrow_labels(rows.data.column(columns.label), columns, self.name)
        chosen = rows.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))
        files = (self.builder.config.data_files or {}).get(split, ())
        return Part(chosen, columns.image, labels, missing_shards([str(file) for file in files]))

    def known_labels(self, split: str) -> Labels | None:
        """Return the labels that decide on the numbers: all splits of the hub share the names of their classes.

        Where the classes have no names, the numbers are counted in train.
        """
        train = train_of(self.splits, split)
        if train is None:
            return None
        rows, columns = self._open(train)
        if columns.names is not None:
            return Labels(np.array([], dtype=np.int64), columns.names)
        return arrow_labels(rows.data.column(columns.label), columns, self.name)

    def _open(self, split: str) -> tuple[Any, Columns]:
        """Return all rows of a split, and the choice of its columns."""
        import datasets

        with _quiet(datasets):
            self.builder.download_and_prepare()
            if self.builder.info.splits[split].num_examples == 0:
                raise ClatError(f"split '{split}' of data set '{self.name}' is empty")
            rows = self.builder.as_dataset(split=split)
        images = [column for column, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        classes = [column for column, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
        image = choose_image_column(rows.column_names, images, self.wanted.image_column, self.name)
        label = choose_label_column(rows.column_names, image, classes, self.wanted.label_column, self.name)
        return rows, Columns(image, label, tuple(rows.features[label].names) if label in classes else None)


def _open_hub(datasets: Any, name: str) -> Any:
    """Ask the hub once, briefly, first: without a network, `datasets` retries for half a minute."""
    import huggingface_hub

    path, _, config = name.partition(":")
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.HfApi().dataset_info(path, timeout=_HUB_TIMEOUT)
        except huggingface_hub.errors.RepositoryNotFoundError as error:
            raise ClatError(f"data set '{path}' is neither a folder here nor on the Hugging Face hub") from error
        except Exception as error:  # the HTTP library's own exceptions, whichever library the hub client uses
            raise ClatError(
                f"cannot reach the Hugging Face hub for data set '{path}' ({first_line(error)}): check the"
                " network, give a local folder, or set HF_HUB_OFFLINE=1 if it was downloaded before"
            ) from error
    builder = datasets.load_dataset_builder(path, name=config or None, cache_dir=_hf_cache())
    if builder.name not in _READABLE:
        raise ClatError(
            f"data set '{name}' is published as {builder.name}, whose splits and classes the hub's library guesses"
            " from names: download it (hf download ... --repo-type dataset), unpack it, and give the folder"
        )
    return builder


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Turn the errors of the libraries that read tables, which have no common base, into one line.

    Args:
        name: the data set's, for messages.

    Yields:
        Nothing; the body runs.

    Raises:
        ClatError: anything that the body raises; one of our own passes as it is.
    """
    try:
        yield
    except ClatError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # generation errors say only "see above"
        raise ClatError(
            f"cannot open data set '{name}': {first_line(cause)}; expected Hugging Face parquet files, or a"
            " folder of images for each class"
        ) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep progress bars and log lines away inside; the user's own settings are put back."""
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
