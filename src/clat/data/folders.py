"""Folders of images: one folder a class, with or without a folder a split above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clat.core.errors import ClatError
from clat.data.classes import Labels, class_name, class_order
from clat.data.split_names import split_meant, word_of_split
from clat.data.tree import IMAGES, Tree, ending, join


def split_folders(tree: Tree, name: str, classes: Collection[str] = ()) -> dict[str, str]:
    """Find the folders of the splits: those at the top that are called so, and nothing below them.

    Args:
        tree: the data set's folder.
        name: the data set's name, for messages.
        classes: those that the user lists, which are no splits whatever they are called.

    Returns:
        The folder's path of each split, by the folder's name. All is ``train`` where the folders at the top are
        classes.

    Raises:
        ClatError: folders at the top that may be splits or classes.
    """
    top = tree.folders("")
    words = [folder for folder in top if split_meant(folder)]
    others = [folder for folder in top if folder not in words and tree.holds(folder, IMAGES)]
    if not words:
        _refuse_hidden_splits(tree, name, top, classes)
        return {"train": ""}
    if not others:
        return {folder: folder for folder in words}
    holding_classes = [folder for folder in (*words, *others) if _holds_folders_alone(tree, folder)]
    meant = {split_meant(folder) for folder in words}
    if len(meant) > 1 and len(holding_classes) == len(words) + len(others):
        return {folder: folder for folder in (*words, *others)}
    if len(meant) == 1 and not set(words) & set(holding_classes):
        return {"train": ""}  # a class of that name: a split would hold folders of classes
    raise ClatError(
        f"data set '{name}': are {', '.join(words)} beside {', '.join(others[:3])} splits or classes? Move the"
        " classes into one folder, or what belongs to no split away"
    )


def _refuse_hidden_splits(tree: Tree, name: str, top: list[str], classes: Collection[str]) -> None:
    """Raise an error where a part of their names makes all folders at the top splits: training_set, seg_test."""
    holding = [folder for folder in top if tree.holds(folder, IMAGES)]
    words = {folder: word_of_split(folder) for folder in holding}
    meant = {split_meant(word) if word else None for word in words.values()}
    if len(meant) < 2 or None in meant or set(holding) <= set(classes):
        return
    if all(_holds_folders_alone(tree, folder) for folder in holding):
        raise ClatError(
            f"data set '{name}': are {', '.join(holding)} splits? Rename them train, test or validation; if they"
            " are classes, list all with classes (--classes)"
        )


def class_splits(tree: Tree) -> list[str]:
    """Return the folders at the top that are called like splits and hold folders of images.

    Args:
        tree: the data set's folder.

    Returns:
        Their names, sorted.
    """
    return [folder for folder in tree.folders("") if split_meant(folder) and _holds_folders_alone(tree, folder)]


def _holds_folders_alone(tree: Tree, at: str) -> bool:
    """Return True if all images below a folder lie in folders of it."""
    return not tree.files(at, IMAGES) and tree.holds(at, IMAGES)


@dataclass(frozen=True)
class ClassFolders:
    """The folder `at` of a tree, whose sub-folders are classes; what lies deeper belongs to them."""

    tree: Tree
    at: str
    name: str
    """The data set's name, for messages."""
    given: tuple[str, ...] | None = None
    """The classes that are wanted; other folders then only matter if there are images in them."""

    def __bool__(self) -> bool:
        """Return True if there are images in sub-folders and none beside them."""
        return _holds_folders_alone(self.tree, self.at)

    @cached_property
    def classes(self) -> dict[str, str]:
        """Return the folder of each class, also of an empty one.

        Raises:
            ClatError: a folder that is no class, or two of one name, in two spellings of an accent.
        """
        folders: dict[str, str] = {}
        for folder in self.tree.folders(self.at):
            found = class_name(folder)
            if found in folders:
                raise ClatError(
                    f"data set '{self.name}' has two folders for the class '{found}': put them together"
                )
            folders[found] = folder
            place = join(self.at, folder)
            if self.given is None and self.tree.holds(place) and not self.tree.holds(place, IMAGES):
                raise ClatError(
                    f"data set '{self.name}': the folder '{place}' among the classes holds no image: move it away,"
                    " or list the classes with classes"
                )
        if self.given is None and len(folders) == 1 and _holds_folders_alone(self.tree, place):
            raise ClatError(
                f"data set '{self.name}': all images lie in folders of the one folder '{place}': move those up, or"
                " give that folder as the data set"
            )
        return {found: folders[found] for found in class_order(folders)}

    def read(self) -> tuple[list[str], Labels, list[str]]:
        """List the images, class by class.

        Returns:
            Their paths in the tree, their labels, and notes.

        Raises:
            ClatError: an image beside the folders, or a folder that is no class.
        """
        stray = self.tree.files(self.at, IMAGES)
        if stray:
            raise ClatError(
                f"data set '{self.name}': {join(self.at, stray[0])} lies beside the class folders: move it into the"
                " folder of its class"
                if any(self.tree.holds(join(self.at, folder), IMAGES) for folder in self.tree.folders(self.at))
                else f"data set '{self.name}' has no class folders in {self.at or 'it'}, only images: sort them"
                " into one folder for each class, or list them in metadata.csv with the columns file_name and label"
            )
        paths: list[str] = []
        labels: list[int] = []
        left_out: Counter[str] = Counter()
        for number, folder in enumerate(self.classes.values()):
            below = list(self.tree.below(join(self.at, folder)))
            images = [path for path in below if ending(path) in IMAGES]
            left_out.update(ending(path) for path in below if ending(path) not in IMAGES)
            paths += images
            labels += [number] * len(images)
        return paths, Labels(np.array(labels, dtype=np.int64), tuple(self.classes)), _left_out(left_out)


def _left_out(endings: Counter[str]) -> list[str]:
    if not endings:
        return []
    files = "1 file that is no image" if endings.total() == 1 else f"{endings.total()} files that are no images"
    return [f"{files} left out ({', '.join(sorted(ending or 'no ending' for ending in endings))})"]
