"""The splits of a folder: of class folders, of lists of files, or of tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clat.core.errors import ClatError
from clat.data.classes import Labels, class_order
from clat.data.columns import WantedColumns, choose_image_column, choose_label_column, to_labels
from clat.data.folders import ClassFolders, class_splits, split_folders
from clat.data.lists import LISTS, named_lists, read_list
from clat.data.split_names import split_meant, train_of
from clat.data.tables import TABLES, find_tables, image_paths, missing_shards, open_rows, read_columns, read_labels
from clat.data.tree import IMAGES, Tree, join, read_tree, shown

_ARCHIVES = frozenset((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"))


@dataclass(frozen=True)
class Part:
    """The images of one split, with the labels that its source gives them."""

    rows: Any
    """Its column `image_column` gives ``{"bytes", "path"}``."""
    image_column: str
    labels: Labels
    notes: list[str]
    root: Path | None = None
    """Where the paths begin."""
    outside: tuple[str, ...] = ()
    """The paths that a list or table names outside its folder or in a hidden one, or in another spelling."""


class Source(Protocol):
    """A data set with its splits."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""

    def read(self, split: str) -> Part:
        """Open a split.

        Args:
            split: one of `splits`.

        Returns:
            Its images, undecoded, and their labels as the source has them.

        Raises:
            ClatError: something in it that cannot be read, or that fits no layout.
        """

    def known_labels(self, split: str) -> Labels | None:
        """Return the labels of the other split that decides on the numbers of the classes.

        Args:
            split: one of `splits`, whose classes are to be numbered.

        Returns:
            The labels of train, of which only the names may be filled in; None where `split` decides itself.

        Raises:
            ClatError: something in that split that cannot be read.
        """


class Files:
    """The paths of images as the rows of a table with the column ``image``."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: int | list[int]) -> dict[str, Any]:
        if isinstance(rows, int):
            return {"image": {"bytes": None, "path": self.paths[rows]}}
        return {"image": [{"bytes": None, "path": self.paths[row]} for row in rows]}


def open_folder(folder: Path, name: str, wanted: WantedColumns) -> Source:
    """Find out what a folder holds.

    Args:
        folder: an existing folder.
        name: the data set's, for messages.
        wanted: columns and classes that the user names.

    Returns:
        Its tables where there are any, else its image files.

    Raises:
        ClatError: nothing readable in it, or nothing that can be told apart.
    """
    tree = read_tree(folder)
    if tree.holds("", TABLES):
        return Tables(tree, name, wanted)
    if tree.holds("", IMAGES | LISTS):
        return ImageFiles(tree, name, wanted)
    archive = next(tree.below("", _ARCHIVES), None)
    found = "no images or tables in it" if archive is None else f"{shown(archive)} is an archive: unpack it"
    raise ClatError(
        f"cannot open data set '{name}': {found}; expected Hugging Face parquet files, or a folder of images for"
        " each class"
    )


@dataclass(frozen=True)
class Tables:
    """A folder of Parquet or Arrow files."""

    tree: Tree
    name: str
    wanted: WantedColumns

    @cached_property
    def files(self) -> dict[str, list[str]]:
        """Return the files of each split."""
        return find_tables(self.tree, self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(self.files)

    def read(self, split: str) -> Part:
        root, paths = self.tree.root, self.files[split]
        columns = read_columns(root, paths, self.wanted, self.name)
        rows = open_rows(root, paths, columns)
        labels = read_labels(root, paths, columns, self.name)
        notes = missing_shards(paths)
        beside = sum(1 for _ in self.tree.below("", IMAGES))
        if beside:
            files = "1 image file" if beside == 1 else f"{beside} image files"
            notes.append(f"the tables are read, {files} beside them left out")
        return Part(rows, columns.image, labels, notes, root, _outside(self.tree, image_paths(rows, columns.image)))

    def known_labels(self, split: str) -> Labels | None:
        train = train_of(self.splits, split)
        if train is None:
            return None
        columns = read_columns(self.tree.root, self.files[train], self.wanted, self.name)
        if columns.names is not None:
            return Labels(np.array([], dtype=np.int64), columns.names)
        return read_labels(self.tree.root, self.files[train], columns, self.name)


@dataclass(frozen=True)
class ImageFiles:
    """A folder of image files: in folders of classes, or named by lists."""

    tree: Tree
    name: str
    wanted: WantedColumns

    @cached_property
    def folders(self) -> dict[str, ClassFolders]:
        """Return the folder of each split; none where only the names of lists tell the splits apart."""
        if named_lists(self.tree) and not class_splits(self.tree):
            return {}
        found = split_folders(self.tree, self.name, self.wanted.classes or ())
        return {split: ClassFolders(self.tree, at, self.name, self.wanted.classes) for split, at in found.items()}

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """Return the lists of each split."""
        found = named_lists(self.tree)
        for split, folder in self.folders.items():
            inside = [join(folder.at, file) for file in self.tree.files(folder.at, LISTS)]
            found[split] = list(dict.fromkeys(found.get(split, []) + inside))
        return {split: files for split, files in found.items() if files}

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple({**self.folders, **self.lists})

    def _listed(self, split: str) -> bool:
        """Return True if a list is read: there is one, and no class folders, or a column is named."""
        return split in self.lists and (self.wanted.columns or not self.folders.get(split))

    def read(self, split: str) -> Part:
        outside: tuple[str, ...] = ()
        if self._listed(split):
            paths, labels, notes = self._from_list(split)
            outside = _outside(self.tree, paths)
        else:
            paths, labels, notes = self.folders[split].read()
            if split in self.lists:
                notes.append(
                    f"{self.lists[split][0]} is left unread, as folders name the classes; see label_column"
                )
        return Part(Files(paths), "image", labels, notes, self.tree.root, outside)

    def known_labels(self, split: str) -> Labels | None:
        train = train_of(self.splits, split)
        if train is not None and self._listed(train):
            return self._from_list(train)[1]
        if split_meant(split) == "train" or (train is None and self._listed(split)):
            return None
        others = [train] if train is not None else [one for one in self.splits if not self._listed(one)]
        names = class_order(name for one in others for name in self.folders[one].classes)
        return Labels(np.array([], dtype=np.int64), names)

    def _from_list(self, split: str) -> tuple[list[str], Labels, list[str]]:
        if len(self.lists[split]) > 1:
            listed = ", ".join(self.lists[split])
            raise ClatError(f"data set '{self.name}': {listed} all list split '{split}': keep one of them")
        (file,) = self.lists[split]
        columns = read_list(self.tree.root, file)
        if not columns:
            raise ClatError(f"split '{split}' of data set '{self.name}' is empty: {file} lists nothing")
        image = choose_image_column(columns, [], self.wanted.image_column, self.name)
        label = choose_label_column(columns, image, [], self.wanted.label_column, self.name)
        for row, value in enumerate(columns[image]):
            if not isinstance(value, str):
                raise ClatError(f"row {row} of {file} names no image in the column '{image}'")
        paths = [os.path.normpath(os.path.join(os.path.dirname(file), value)) for value in columns[image]]
        for row, path in enumerate(paths):
            if not os.path.isfile(self.tree.root / path):
                raise ClatError(f"row {row} of {file} names '{columns[image][row]}', which is no file beside it")
        notes = []
        twice = sum(count > 1 for count in Counter(paths).values())
        if twice:
            notes.append(f"{'1 file is' if twice == 1 else f'{twice} files are'} listed twice or more in {file}")
        return paths, to_labels(columns[label], None, label, self.name), notes


def _outside(tree: Tree, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths, each once, that a walk through the tree does not meet."""
    named = dict.fromkeys(paths)
    inside = set(tree.below("")) if named else ()
    return tuple(path for path in named if path not in inside)
