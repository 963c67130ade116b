"""Which class an image has: the names of the classes, in the order of a network's outputs, and the labels."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clat.core.errors import ClatError, unknown
from clat.core.parsing import parse_json
from clat.data.tree import read_tree, shown

_WHOLE = re.compile(r"([+-]?\d{1,18})(?:\.0*)?")
_MOST = 1_000_000  # classes that are counted, though there are images of a few only

Classes = str | os.PathLike[str] | Sequence[str]
"""A list of classes as a user gives it; see `read_classes`."""


@dataclass(frozen=True)
class Labels:
    """The labels of one split as its source has them."""

    values: np.ndarray
    """(N,): int64, or text."""
    names: tuple[str, ...] | None = None
    """Where the values are numbers of named classes: one name a class, in the order of their numbers."""


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort the names of classes: by number where all of them are numbers, else as text.

    Args:
        names: in any order; one that is there twice counts once.

    Returns:
        Each name once, in the order of a network's outputs.

    >>> class_order(["10", "9", "1"]), class_order(["b10", "b9"])
    (('1', '9', '10'), ('b10', 'b9'))
    """
    found = sorted(set(names))
    return tuple(sorted(found, key=int) if all_numbers(found) else found)


def are_numbers(class_names: Sequence[str]) -> bool:
    """Return whether classes are called 0, 1, 2, ..., which is no name.

    Args:
        class_names: in the order of their numbers.

    Returns:
        True where they are.
    """
    return list(class_names) == list(map(str, range(len(class_names))))


def all_numbers(names: Iterable[str]) -> bool:
    """Return whether classes are called by numbers, in whatever order, some perhaps left out.

    Args:
        names: theirs.

    Returns:
        True where they are.
    """
    return all(name.isdecimal() for name in names)


def numbered(class_names: Sequence[str]) -> str:
    """Return the numbers and names of classes in one line.

    Args:
        class_names: in the order of their numbers.

    Returns:
        Such as "0 cat, 1 dog"; of more than twelve the first ten and the last.
    """
    found = [f"{number} {name}" for number, name in enumerate(class_names)]
    return ", ".join(found if len(found) <= 12 else [*found[:10], "...", found[-1]])


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, with a sign, a decimal point or zeros after it if it has them.

    Args:
        text: such as a cell of a list.

    Returns:
        The number; None where the text is something else.

    >>> whole_number("7"), whole_number("11.0"), whole_number("-1"), whole_number("1.5"), whole_number("cat")
    (7, 11, -1, None, None)
    """
    found = _WHOLE.fullmatch(text.strip())
    return int(found[1]) if found else None


def class_name(folder: str) -> str:
    """Return the class that a folder's name means.

    Args:
        folder: the name alone, without its path.

    Returns:
        The name in Unicode's composed form (NFC): one spelling for é, which a Mac writes as e and an accent.
    """
    return unicodedata.normalize("NFC", shown(folder))


def read_classes(given: Classes) -> tuple[str, ...]:
    """Read a list of classes, in the order of a network's outputs.

    Args:
        given: the names; or a text: names with commas, a file (JSON list, or one name a line), or a folder, whose
            sub-folders are the classes in the order in which they would be read.

    Returns:
        The names, each once, in Unicode's composed form (NFC).

    Raises:
        ClatError: no such file, no names in it, or one there twice.
    """
    if isinstance(given, str | os.PathLike):
        where = f"list of classes '{shown(os.fspath(given))}'"
        names = _from_text(given, where)
    else:
        where, names = "list of classes", [str(name).strip() for name in given]
    if not names or not all(names):
        raise ClatError(f"the {where} is empty, or a name in it is: give one name for each output of the network")
    for name in names:
        if names.count(name) > 1:
            raise ClatError(f"the {where} has '{name}' twice: give one name for each output of the network")
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _from_text(given: str | os.PathLike[str], where: str) -> list[str]:
    text = os.fspath(given)
    path = Path(text).expanduser()
    try:
        if text and path.is_dir():
            return list(class_order(class_name(folder) for folder in read_tree(path).folders("")))
        content = path.read_text(encoding="utf-8-sig") if text and path.is_file() else None
    except UnicodeDecodeError:
        raise ClatError(f"the {where} is not text: expected a JSON list, or one name a line") from None
    except OSError as error:
        raise ClatError(f"cannot read the {where}: {error.strerror or error}") from None
    if content is None:
        if text and "," not in text:
            raise ClatError(f"the {where} is neither a file, nor a folder, nor names with commas between them")
        return [name.strip() for name in text.split(",")]
    if not content.lstrip().startswith(("[", "{")):
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        names = parse_json(content)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ClatError(f"the {where} is no JSON list of names")
    return [name.strip() for name in names]


def single_class(class_names: Sequence[str]) -> str | None:
    """Return what to say of images that are all of one class.

    Args:
        class_names: the names of the classes.

    Returns:
        What there is and what to do; None where there are more classes, or none.
    """
    if len(class_names) != 1:
        return None
    return (
        f"a single class, '{class_names[0]}': a classifier needs two or more; sort images into one folder for each "
        "class"
    )


def check_trainable(name: str, class_names: Sequence[str]) -> None:
    """Raise an error where there is nothing to tell apart.

    Args:
        name: the data set's.
        class_names: the names of its classes.

    Raises:
        ClatError: there is a single class.
    """
    if (single := single_class(class_names)) is not None:
        raise ClatError(f"data set '{name}' has {single}")


def number_classes(
    own: Labels, train: Labels | None, given: tuple[str, ...] | None, where: str, *, as_they_are: bool = False
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Number the classes of a split: as `given` says, else as the train split does, else as the split does itself.

    Args:
        own: of the split.
        train: of the train split, where that is another one.
        given: the classes, in the order of a network's outputs.
        where: the split, for messages.
        as_they_are: take whole numbers that leave some out for the classes 0, 1, ..., largest.

    Returns:
        int64 labels, (N,), a negative one as it was; the class names; notes.

    Raises:
        ClatError: a class that is not in the list, or numbers that leave some out.
    """
    first = own if train is None else train
    plain = given is None and own.names is None and own.values.dtype.kind == "i"
    if plain and (first.names is not None or first.values.dtype.kind != "i"):  # numbers among the names of train
        known = first.values.tolist() if first.names is None else first.names
        if first.names is not None and not all_numbers(known):
            raise ClatError(
                f"the labels of '{where}' are numbers, and the train split has classes with names"
                f" ({', '.join(known[:3])}, ...): list the classes in the order of the numbers with classes"
                " (--classes)"
            )
        spelt = {whole_number(name): name for name in known}
        own = Labels(np.array([spelt.get(value, str(value)) for value in own.values.tolist()], dtype=object))
        plain = False
    if plain:
        values, names, notes = *_counted(own.values, first.values, where, as_they_are), []
    else:
        values, found = _named(own, given, where)
        names = _named(first, None, where)[1] if given is None else given
        notes = [] if given is not None else _order_notes(found, names)
        values = _moved(values, found, names, where, "the list" if given is not None else "the train split")
    counts = np.bincount(values[values >= 0], minlength=len(names))
    absent = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if absent:
        listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        notes.append(f"no image of {len(absent)} of the {len(names)} classes: {listed}")
    return values, names, notes


def _counted(
    values: np.ndarray, first: np.ndarray, where: str, as_they_are: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return whole numbers without names and their classes: 0, 1, ..., the largest of `first`."""
    known = np.unique(first[first >= 0])
    count = int(known[-1]) + 1 if len(known) else 1
    if len(known) < count and not (as_they_are and count <= _MOST):
        listed = ", ".join(map(str, known[:4].tolist())) + (", ..." if len(known) > 4 else "")
        raise ClatError(
            f"the labels of '{where}' are {listed} and leave out {count - len(known)} of the numbers from 0 to"
            f" {count - 1}: list the classes with classes (--classes), or name the label_column (--label-column) to"
            f" count all {count}"
        )
    if len(values) and values.max() >= count:
        raise ClatError(f"'{where}' has the label {values.max()}, the train split has 0 to {count - 1}")
    return values, tuple(map(str, range(count)))


def _named(labels: Labels, given: tuple[str, ...] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return numbers of named classes, and the names."""
    if labels.names is not None:
        return labels.values, labels.names
    numbers = {whole_number(name): name for name in given or ()}
    if given is not None and labels.values.dtype.kind == "i" and None in numbers:
        if len(labels.values) and labels.values.max() >= len(given):  # words for numbers from 0 on
            raise ClatError(f"'{where}' has the label {labels.values.max()}, the list has {len(given)} classes")
        return labels.values, given
    found, values = np.unique(labels.values, return_inverse=True)
    names = [numbers.get(name, str(name)) for name in found.tolist()]  # the list may write 1 as 1.0
    order = class_order(names)
    return np.array([order.index(name) for name in names], dtype=np.int64)[values], order


def _moved(
    values: np.ndarray, found: tuple[str, ...], names: tuple[str, ...], where: str, source: str
) -> np.ndarray:
    """Return the numbers that classes numbered as in `found` have in `names`."""
    if found == names:
        return values
    place = {name: number for number, name in enumerate(names)}
    for number in np.unique(values[values >= 0]).tolist():
        if found[number] not in place:
            raise ClatError(f"{unknown(f'class in {where}:', found[number], names)} (the classes of {source})")
    moved = np.array([place.get(name, -1) for name in found], dtype=np.int64)
    return np.where(values < 0, values, moved[values])


def _order_notes(found: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """Return notes on the order of the classes, where it may surprise."""
    notes = []
    if found != names and sorted(found) == sorted(names):
        notes.append("the split numbers its classes otherwise than the train split: brought into that order")
    if all_numbers(names) and list(names) != sorted(names):
        notes.append(
            f"the classes are numbers and stand in numeric order, {', '.join(names[:3])}, ..., {names[-1]}; readers"
            " that sort text have another one"
        )
    return notes
