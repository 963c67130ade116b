"""The names that splits go by, and the split that is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from clat.core.errors import ClatError

_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}


def split_meant(name: str) -> str | None:
    """Return train, test or validation where `name` is a word for it, in upper or lower case.

    Args:
        name: of a folder, a file or a split.

    Returns:
        The split's usual name; None where it is no word for one.

    >>> split_meant("VALID")
    'validation'
    """
    return next((split for split, words in _WORDS.items() if name.casefold() in words), None)


def word_of_split(name: str) -> str | None:
    """Return the word in a name that is one for a split.

    Args:
        name: of a folder, or of a file without its ending.

    Returns:
        The only such word between dashes, underscores, dots, spaces, digits and the ends; None where there is none,
        or several of different meaning.

    >>> word_of_split("mnist_train"), word_of_split("val2017"), word_of_split("train-test"), word_of_split("trains")
    ('train', 'val', None, None)
    """
    words = [word for word in re.split(r"[-_. \d]+", name) if split_meant(word)]
    return words[0] if len({split_meant(word) for word in words}) == 1 else None


def train_of(splits: Iterable[str], split: str) -> str | None:
    """Return the train split, which decides on the numbers of the classes.

    Args:
        splits: the names of those that are there.
        split: the one that is read.

    Returns:
        The name of one that means train, `train` itself first; None where there is none or several, or `split` is
        it.

    >>> train_of(["training", "test"], "test")
    'training'
    """
    found = [one for one in splits if split_meant(one) == "train"]
    found = ["train"] if "train" in found else found
    return found[0] if len(found) == 1 and split_meant(split) != "train" else None


def find_split(
    asked: str, present: Iterable[str], name: str, folder: Path | None = None
) -> tuple[str, tuple[str, ...]]:
    """Find the split that is asked for: that very name, else another word for it, else validation for test.

    Args:
        asked: such as ``test``.
        present: the names of the splits that are there.
        name: the data set's, for messages.
        folder: where it lies, if it is one.

    Returns:
        The name of one that is there, and notes: where it only stands in for the one asked for, or others mean
        the same.

    Raises:
        ClatError: there is none, or several mean it.
    """
    there = sorted(present)
    meant = split_meant(asked)
    stands_in = meant == "test"
    for fits in (
        [split for split in there if split == asked],
        [split for split in there if split.casefold() == asked.casefold()],
        [split for split in there if meant is not None and split_meant(split) == meant],
        [split for split in there if stands_in and split_meant(split) == "validation"],
    ):
        if len(fits) > 1:
            raise ClatError(
                f"several splits of data set '{name}' may be meant by '{asked}': {', '.join(fits)}; name one of"
                " them, or put them together"
            )
        if fits:
            found = fits[0]
            if stands_in and split_meant(found) != meant:
                return found, (f"split '{found}' stands in for '{asked}'",)
            alike = [split for split in there if meant and split != found and split_meant(split) == meant]
            return found, (f"split '{found}' is read, beside it there is {', '.join(alike)}",) if alike else ()
    if folder is not None and (part := split_meant(folder.name)) is not None:
        raise ClatError(
            f"'{name}' is the {part} split of '{folder.parent}', and has no '{asked}': give --data "
            f"{folder.parent}, or --split {there[0] if len(there) == 1 else part} where there is that option"
        )
    hint = f"; of class folders, move some images of each class to {name}/test/CLASS" if stands_in and there else ""
    raise ClatError(f"data set '{name}' has no split '{asked}'; it has: {', '.join(there) or 'none'}{hint}")
