"""Finding a data set and opening one split of it as a table, by Hugging Face ``datasets``.

One reader serves parquet folders, folders of images and the hub. This file is where foreign names, layouts
and exceptions end: it gives out a plain `Table` or one clear line.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clat.core.errors import ClatError, unknown
from clat.data.cache import data_root
from clat.data.decode import first_line

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_HUB_TIMEOUT = 10.0  # seconds
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
_LABELS = ("label", "fine_label", "labels")
_STAND_INS = {"test": ("validation", "valid", "val")}


@dataclass(frozen=True)
class Table:
    """One split: undecoded images, labels, and what a reader should know about it."""

    rows: Any
    """A map-style data set with the one column `image_column`, which gives ``{"bytes", "path"}``."""
    image_column: str
    labels: torch.Tensor
    """int64, shape (N,)."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    """Changes when the content does."""


def locate(name: str) -> Path | None:
    """The folder that `name` means, or None when it is the name of a data set on the hub.

    A bare name is looked for in `data_root` and then in the working directory; anything else is a path, or
    ``owner/name`` (``owner/name:config`` where the hub asks for one) when no such folder exists.

    Raises:
        ClatError: nothing there; it says which folder was looked in and what to put there.
    """
    if not name.strip():
        raise ClatError("data set name is empty: give a known name such as cifar10, a folder or a hub owner/name")
    path = Path(name).expanduser()
    if re.fullmatch(r"\w[\w.-]*", name):
        known = data_root() / name
        if known.is_dir():
            return known
        if not path.exists():
            raise ClatError(
                f"data set '{name}' not found in {data_root()}: put the Hugging Face parquet files"
                f" (train-*.parquet, test-*.parquet) into {known}, or set CLAT_DATA_DIR to the folder that"
                f" holds {name}/"
            )
    if path.is_dir():
        return path
    if path.exists():
        raise ClatError(f"data set '{name}' is a file: give the folder that holds it")
    if _HUB_NAME.fullmatch(name) and not name.startswith("."):
        return None
    raise ClatError(
        f"data set folder '{name}' not found: give an existing folder, a known name or a hub owner/name"
    )


def open_table(name: str, folder: Path | None, split: str, label_column: str | None = None) -> Table:
    """Opens `split` of a folder, or of the hub data set `name` when `folder` is None.

    Raises:
        ClatError: nothing readable there, hub unreachable, no such split, no images or no labels.
    """
    import datasets  # here, since it takes a second to import and a cached start does not need it

    with _quiet(datasets):
        if folder is None:
            builder = _open_hub(datasets, name)
        else:
            builder = _guarded(str(folder), datasets.load_dataset_builder, str(folder), cache_dir=_hf_cache())
        files = builder.config.data_files or {}
        found = _choose_split(name, split, [str(key) for key in (files or builder.info.splits or ())])
        # A folder may hold fewer rows than its card promises: some of the shards are worth having.
        checks = {"verification_mode": "no_checks"} if folder else {}
        _guarded(name, builder.download_and_prepare, **checks)
        if builder.info.splits[found].num_examples == 0:
            raise ClatError(f"split '{found}' of data set '{name}' is empty")
        rows = _guarded(name, builder.as_dataset, split=found)
    notes = [] if found == split else [f"split '{found}' stands in for '{split}'"]
    image = _image_column(datasets, rows, name)
    labels, class_names = _read_labels(datasets, rows, name, label_column)
    return Table(
        rows=rows.select_columns([image]).cast_column(image, datasets.Image(decode=False)),
        image_column=image,
        labels=labels,
        class_names=class_names,
        notes=(*notes, *_missing_shards(files.get(found, ()))),
        fingerprint=str(rows._fingerprint),
    )


def _open_hub(datasets: Any, name: str) -> Any:
    """Asks the hub once, briefly, first: without a network, `datasets` retries for half a minute."""
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
    return _guarded(name, datasets.load_dataset_builder, path, name=config or None, cache_dir=_hf_cache())


def _guarded(name: str, call: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Calls into `datasets`, whose errors have no common base, and turns any of them into one line."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        cause = error.__cause__ or error  # generation errors say only "see above"
        raise ClatError(
            f"cannot open data set '{name}': {first_line(cause)}; expected Hugging Face parquet files, or a"
            " folder of images for each class"
        ) from error


def _choose_split(name: str, split: str, present: list[str]) -> str:
    for candidate in (split, *_STAND_INS.get(split, ())):
        if candidate in present:
            return candidate
    raise ClatError(f"data set '{name}' has no split '{split}'; it has: {', '.join(present) or 'none'}")


def _image_column(datasets: Any, rows: Any, name: str) -> str:
    found = [column for column, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not found:
        raise ClatError(f"data set '{name}' has no image column; its columns: {', '.join(rows.column_names)}")
    return found[0]


def _read_labels(datasets: Any, rows: Any, name: str, wanted: str | None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Labels and class names of the wanted column; by default the usual names, then any ClassLabel column."""
    features = rows.features
    if wanted is not None and wanted not in features:
        raise unknown("label column", wanted, features)
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    usual = [column for column in _LABELS if column in classes] or classes
    column = wanted or next(iter(usual or [column for column in _LABELS if column in features]), None)
    if column is None:
        raise ClatError(
            f"data set '{name}' has no label column (columns: {', '.join(features)}): give label_column, or"
            " sort the images into one folder a class"
        )
    values = rows.data.column(column)
    if values.null_count or not np.issubdtype(values.to_numpy().dtype, np.integer):
        raise ClatError(f"label column '{column}' of data set '{name}' is not made of whole numbers without gaps")
    labels = torch.from_numpy(values.to_numpy().astype(np.int64))
    feature = features[column]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else range(int(labels.max()) + 1)
    return labels, tuple(str(name) for name in names)


def _missing_shards(files: Any) -> tuple[str, ...]:
    """A note when file names such as ``train-00000-of-00003.parquet`` show that others are not there."""
    shards = [match.groups() for file in files if (match := _SHARD.search(os.path.basename(str(file))))]
    present, total = {index for index, _ in shards}, max((int(total) for _, total in shards), default=0)
    return (f"only {len(present)} of {total} files are there",) if len(present) < total else ()


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log lines inside; the user's own settings are put back."""
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _hf_cache() -> str:
    """The Hugging Face cache, or a temporary folder where that cannot be written (a read-only home)."""
    import datasets

    folder = str(datasets.config.HF_DATASETS_CACHE)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return _temporary_folder().name


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """One for the process; it is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="clat-hf-", ignore_cleanup_errors=True)
