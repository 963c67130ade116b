"""What a data set holds: splits, classes, counts, sizes, broken files, images that are in two splits."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from clat.core.errors import ClatError
from clat.core.notebook import html_of, html_table
from clat.data.classes import Classes, read_classes, single_class
from clat.data.columns import WantedColumns
from clat.data.image_files import UNREADABLE, open_image, to_rgb, why_unreadable
from clat.data.lazy import default_workers
from clat.data.sources import ImageTable, locate, one_line, open_source, read_table
from clat.data.tree import shown

if TYPE_CHECKING:
    from clat.core.console import Table as ConsoleTable

_FEW = 4096  # images that one process decodes sooner than worker processes start
_SHOWN = 20  # classes and files in a table of the screen


@dataclass(frozen=True)
class Found:
    """One image file: its size in pixels, and a digest of its bytes; or what is wrong with it."""

    width: int = 0
    height: int = 0
    digest: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class SplitReport:
    """One split."""

    name: str
    counts: dict[str, int]
    """Images of each class, in the order of the classes."""
    sizes: dict[tuple[int, int], int]
    """Images of each (width, height), the most frequent first; broken ones are left out."""
    broken: list[str]
    """A line for each file that cannot be read."""
    notes: list[str]
    unlabelled: int = 0
    """Images whose label is -1, as in splits that are published without labels."""

    @property
    def images(self) -> int:
        """Return the number of images, also of those that cannot be read or have no label."""
        return sum(self.counts.values()) + self.unlabelled


@dataclass(frozen=True)
class DataReport:
    """All splits of a data set."""

    name: str
    source: str
    splits: list[SplitReport]
    unreadable: dict[str, str]
    """Splits that cannot be read at all, and why."""
    repeated: dict[tuple[str, str], int]
    """How many images of one split are in another one too, byte for byte."""

    @property
    def classes(self) -> list[str]:
        """Return the classes in the order of a network's outputs."""
        return list(dict.fromkeys(name for split in self.splits for name in split.counts))

    @property
    def sound(self) -> bool:
        """Return True if every file can be read, every image has a label and none is in two splits."""
        return not (
            self.unreadable or self.repeated or any(split.broken or split.unlabelled for split in self.splits)
        )

    def lines(self) -> list[str]:
        """Return what is to be said beside the tables.

        Returns:
            A line each, empty where there is nothing to say; of many broken files the first ones.
        """
        said = [f"split '{name}' cannot be read: {why}" for name, why in self.unreadable.items()]
        for split in self.splits:
            if split.unlabelled:
                said.append(f"{split.name}: {split.unlabelled} of {split.images} images have no label (-1)")
            said += [f"{split.name}: {note}" for note in split.notes]
            said += [f"{split.name}: {line}" for line in _first(split.broken)]
        for (one, two), count in self.repeated.items():
            said.append(f"{count} {'image is' if count == 1 else 'images are'} in {one} and in {two}")
        if (single := single_class(self.classes)) is not None:
            said.append(single)
        if len({size for split in self.splits for size in split.sizes}) > 1:
            said.append(
                "the images differ in size: give image_size (--image-size; in clat train --data.image_size) to"
                " train and evaluate on them"
            )
        return said

    def _repr_html_(self) -> str:
        said = html_table([""], [[line] for line in self.lines()]) if self.lines() else ""
        return html_of(self.split_table()) + html_of(self.class_table()) + said

    def split_table(self) -> ConsoleTable:
        """Return a table with a row a split: images, classes, sizes and broken files.

        Returns:
            A table for rich's console.
        """
        from clat.core.console import Table as ConsoleTable

        table = ConsoleTable(title=f"{self.name}, from {self.source}")
        for column in ("split", "images", "classes", "smallest", "largest", "sizes", "broken"):
            table.add_column(column, justify="left" if column == "split" else "right")
        for split in self.splits:
            areas = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
            ends = [f"{width}x{height}" for width, height in (areas[0], areas[-1])] if areas else ["-", "-"]
            filled = sum(count > 0 for count in split.counts.values())
            numbers = (split.images, filled, *ends, len(areas), len(split.broken))
            table.add_row(split.name, *map(str, numbers))
        return table

    def class_table(self) -> ConsoleTable:
        """Return a table with a row a class, the first ones where there are many.

        Returns:
            A table for rich's console, with the images of each split in a column.
        """
        classes = self.classes
        from clat.core.console import Table as ConsoleTable

        table = ConsoleTable(caption=f"and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else None)
        table.add_column("output", justify="right")
        table.add_column("class")
        for split in self.splits:
            table.add_column(split.name, justify="right")
        for number, name in enumerate(classes[:_SHOWN]):
            table.add_row(str(number), name, *(str(split.counts.get(name, 0)) for split in self.splits))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data.

        Returns:
            What a JSON file can hold, the classes by number and name.
        """
        splits = self.splits
        return {
            "what": "data check",
            "name": self.name,
            "source": self.source,
            "sound": self.sound,
            "classes": [
                {"number": number, "name": name, "images": {one.name: one.counts.get(name, 0) for one in splits}}
                for number, name in enumerate(self.classes)
            ],
            "splits": [
                {
                    "name": split.name,
                    "images": split.images,
                    "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in split.sizes.items()],
                    "broken": split.broken,
                    "notes": split.notes,
                }
                for split in splits
            ],
            "unreadable": self.unreadable,
            "repeated": [{"splits": list(pair), "images": count} for pair, count in self.repeated.items()],
        }


def inspect_data(
    name: str | os.PathLike[str],
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    classes: Classes | None = None,
    workers: int | None = None,
) -> DataReport:
    """Decode every image of a data set and report what is there.

    Nothing is written but copies in the cache.

    Args:
        name: as for `load_split`, but not ``digits``.
        label_column: as for `load_split`.
        image_column: as for `load_split`.
        classes: as for `load_split`.
        workers: decoding processes; by default one a core for more than a few thousand images.

    Returns:
        Counts, sizes and broken files of each split, and the images that two splits share.

    Raises:
        ClatError: no such data set, or none of its splits can be read.
    """
    text = os.fspath(name)
    if text == "digits":
        raise ClatError("digits come with scikit-learn: there are no files to check")
    listed = None if classes is None else read_classes(classes)
    wanted = WantedColumns(label_column=label_column, image_column=image_column, classes=listed)
    folder = locate(text)
    title = text if folder is None else shown(folder.resolve().name)
    splits: list[SplitReport] = []
    unreadable: dict[str, str] = {}
    digests: dict[str, set[int]] = {}
    with one_line(text):
        source = open_source(text, folder, wanted)
        for split in sorted(source.splits):
            try:
                table = read_table(source, split, title, wanted)
            except ClatError as error:
                unreadable[split] = str(error)
                continue
            found = list(_examined(table, workers))
            digests[split] = {one.digest for one in found if one.problem is None}
            splits.append(_report(split, table, found))
    if not splits:
        raise ClatError(next(iter(unreadable.values()), f"data set '{title}' has no splits"))
    repeated = {(one, two): len(digests[one] & digests[two]) for one, two in combinations(digests, 2)}
    return DataReport(
        name=title,
        source="the Hugging Face hub" if folder is None else shown(str(folder)),
        splits=splits,
        unreadable=unreadable,
        repeated={pair: count for pair, count in repeated.items() if count},
    )


def _report(split: str, table: ImageTable, found: Sequence[Found]) -> SplitReport:
    labelled = table.labels[table.labels >= 0]
    counts = torch.bincount(labelled, minlength=len(table.class_names)).tolist()
    sizes = Counter((one.width, one.height) for one in found if one.problem is None)
    return SplitReport(
        name=split,
        counts=dict(zip(table.class_names, counts, strict=True)),
        sizes=dict(sizes.most_common()),
        broken=[one.problem for one in found if one.problem is not None],
        notes=list(table.notes),
        unlabelled=len(table.labels) - len(labelled),
    )


def _examined(table: ImageTable, workers: int | None) -> Iterator[Found]:
    """Yield what is found of every image, in order."""
    total = len(table.rows)
    if workers is None:
        workers = default_workers() if total > _FEW else 0
    batches = [list(range(start, min(start + 256, total))) for start in range(0, total, 256)]
    parts = DataLoader(
        _Examiner(table), batch_size=None, sampler=batches, num_workers=workers, generator=torch.Generator()
    )
    for part in parts:
        yield from part


class _Examiner(Dataset):
    """Images by the list of their rows."""

    def __init__(self, table: ImageTable) -> None:
        self.table = table

    def __getitem__(self, rows: list[int]) -> list[Found]:
        stored = self.table.rows[rows][self.table.image_column]
        return [_examine(row, one or {}, self.table.root) for row, one in zip(rows, stored, strict=True)]


def _examine(row: int, stored: dict[str, Any], root: Path | None) -> Found:
    """Return what is found of one image, decoded, as its header alone says nothing of its pixels."""
    data, path = stored.get("bytes"), stored.get("path")
    where = f"row {row}" if path is None else shown(str(path))
    if data is None and (path is None or root is None):
        return Found(problem=f"{where} holds no image")
    try:
        with open_image(data, path, root) as image:
            width, height = to_rgb(image).size
        if data is None:
            with open(os.path.join(root or "", str(path)), "rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
        else:
            digest = hashlib.blake2b(data, digest_size=8).digest()
    except UNREADABLE as error:
        return Found(problem=f"{where}: {why_unreadable(error)}")
    return Found(width, height, int.from_bytes(digest, "big"))


def _first(lines: list[str]) -> list[str]:
    left = len(lines) - _SHOWN
    return lines if left <= 0 else [*lines[:_SHOWN], f"and {left} more"]
