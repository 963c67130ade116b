"""The names that splits go by, and the split that is meant."""

from __future__ import annotations

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
