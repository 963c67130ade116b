"""The items of a torch `Dataset` as images that are read when they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from clat.core.checks import check_images, kind_of
from clat.core.errors import ClatError, first_line
from clat.core.notices import notice
from clat.core.random_states import generator_state, global_states
from clat.core.seeds import derive_seed
from clat.data.columns import WantedColumns, choose_image_column, choose_label_column
from clat.data.draws import seeded_draws
from clat.data.held_generators import held_generators
from clat.data.lazy import LazyImages, default_workers
from clat.data.pixels import to_pixels

_FEW = 4096  # items that one process reads sooner than worker processes start
_LOOKED_AT = 8  # items whose labels are compared with those that the data set says it has
_FEW_PLACES, _MANY_PLACES = 8, 64  # at which an image is looked at that seems fixed, that seems random


@dataclass(frozen=True)
class Items:
    """A map-style data set, and where the image and the label of an item are."""

    dataset: Any
    where: str
    """What it is called in messages."""
    keys: tuple[Any, Any] = (0, 1)
    """Of the image and of the label: places in a pair, or the keys of a mapping."""

    @cached_property
    def generators(self) -> list[Any]:
        """Return the generators that the data set holds."""
        return held_generators(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the generators: those of modules are others in a process that is spawned."""
        return {name: value for name, value in self.__dict__.items() if name != "generators"}

    def read(self, row: int) -> tuple[Any, int]:
        """Return image and label of an item.

        Raises:
            ClatError: the data set fails, or its item is no image with a whole number for a label.
        """
        item = raw_item(self.dataset, row, self.where)
        try:
            image, label = (item[key] for key in self.keys)
        except (KeyError, IndexError, TypeError):
            raise _no_pair(item, row, self.where) from None
        return image, _class_number(label, row, self.where)


def open_items(dataset: Any, wanted: WantedColumns, where: str) -> Items:
    """Look at the first item of a data set to see where image and label are.

    Args:
        dataset: anything with a length and items (image, label), or mappings that hold both.
        wanted: the keys, where the user names them.
        where: what it is called in messages.

    Returns:
        The data set, and where an item has its image and its label.

    Raises:
        ClatError: items of another kind.
    """
    item = raw_item(dataset, 0, where)
    if isinstance(item, Mapping):
        images = [key for key, value in item.items() if _looks_like_image(value)]
        names = [str(key) for key in item]
        image = choose_image_column(names, images, wanted.image_column, where)
        if len(images) > 1 and wanted.image_column is None:
            others = ", ".join(f"'{key}'" for key in images if key != image)
            notice(f"{where}: the images are those called '{image}'; image_column takes others, here {others}")
        label = choose_label_column(names, image, [], wanted.label_column, where)
        found = Items(dataset, where, (image, label))
    elif isinstance(item, tuple | list) and len(item) == 2:
        found = Items(dataset, where)
    else:
        raise _no_pair(item, 0, where)
    found.read(0)
    return found


class DatasetImages(LazyImages):
    """The images of a data set's items.

    What an item draws from torch on the CPU, `random`, NumPy or a generator that the data set holds follows from
    the place that asks and from its row.

    Args:
        items: the data set.
        labels: what each item was found to be, int64, (N,): an item that changes its label is refused.
        size: pixels; see `to_pixels`.
        rows: the rows that belong to this set, in order; all by default.
    """

    def __init__(
        self, items: Items, labels: np.ndarray, *, size: int | None = None, rows: Tensor | None = None
    ) -> None:
        self.items, self.labels, self.size = items, labels, size
        self.rows = torch.arange(len(labels)) if rows is None else rows
        first = self.fetch_rows([0], (), None)
        self.shape, self.dtype = tuple(first.shape[1:]), first.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Tensor) -> DatasetImages:
        found = object.__new__(DatasetImages)
        found.__dict__.update(self.__dict__, rows=self.rows[indices])
        return found

    def fetch(self, indices: Tensor, place: tuple[int, ...] = ()) -> Tensor:
        rows = self.rows[indices].tolist()
        if not rows:
            return torch.empty((0, *self.shape), dtype=self.dtype)
        return self.fetch_rows(rows, place, (self.shape, self.dtype))

    def fetch_rows(
        self, rows: list[int], place: tuple[int, ...], expected: tuple[tuple[int, ...], torch.dtype] | None
    ) -> Tensor:
        """Read these rows of the data set; `expected`: the shape and type of all images, if they are known."""
        made = []
        with seeded_draws(self.items.generators) as seed:
            for row in rows:
                seed(derive_seed("item", *place, row))
                image, label = self.items.read(row)
                here = f"item {row} of {self.items.where}"
                if label != self.labels[row]:
                    raise ClatError(
                        f"{here} has label {label}, and had {self.labels[row]} before, or in `targets` of the data"
                        " set: expected the same, or no `targets`"
                    )
                pixels = to_pixels(image, self.size, here)
                if expected is not None and (tuple(pixels.shape), pixels.dtype) != expected:
                    raise ClatError(
                        f"{here} is {pixels.dtype} of shape {tuple(pixels.shape)}, the first {expected[1]} of shape"
                        f" {expected[0]}: give all images one type and size"
                    )
                made.append(pixels)
        batch = torch.stack(made)
        if batch.dtype != torch.uint8:
            try:
                check_images(batch)
            except ClatError as error:
                raise ClatError(f"{self.items.where}: {error}") from None
        return batch

    def notes_on_draws(self) -> list[str]:
        """Look whether the first image is another one at another place, or at the same one.

        Where reading it draws from torch, Python, NumPy or a generator that the data set holds it is looked at more
        often, as a transform may seldom change anything. Images that no seed decides are read in this process from
        then on: worker processes that start anew in each epoch would draw the same in each.

        Returns:
            One note on a random transform that is in the data set, or none.
        """
        row = int(self.rows[0])
        with seeded_draws(self.items.generators) as seed:
            seed(0)
            before = self._states()
            self.items.read(row)
            places = _FEW_PLACES if self._states() == before else _MANY_PLACES
        first = [self.fetch_rows([row], (place,), None) for place in range(places)]
        again = [self.fetch_rows([row], (place,), None) for place in range(_FEW_PLACES)]
        if not all(map(_alike, first, again)):
            self.at_hand = True
            return [
                "items of the data set are drawn at random, and no seed decides on them: no run can be repeated or"
                " resumed as it was, and what is measured changes with each reading; draw from torch, random,"
                " NumPy, or a generator that the data set holds. They are read in one process"
            ]
        if all(_alike(first[0], other) for other in first):
            return []
        return [
            "items of the data set are drawn at random: anew in each epoch of training, beside data.augment, and"
            " once for all that is measured"
        ]

    def _states(self) -> tuple[bytes, ...]:
        own = (pickle.dumps(generator_state(each)) for each in self.items.generators)
        return *global_states(), *own


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def read_item_labels(items: Items) -> np.ndarray:
    """Return the class number of every item.

    They are taken from `targets` or `labels` of the data set where those agree with some of its items, among them
    one of each class, which a `target_transform` may change; else all items are read once.

    Args:
        items: as `open_items` found them.

    Returns:
        int64, shape (N,).

    Raises:
        ClatError: as `Items.read`.
    """
    n = len(items.dataset)
    said = declared_labels(items.dataset)
    if said is not None and len(said) == n:
        looked_at = {round(k * (n - 1) / (_LOOKED_AT - 1)) for k in range(_LOOKED_AT)}
        looked_at |= set(np.unique(said, return_index=True)[1].tolist())
        rows = sorted(looked_at)
        if np.array_equal(_read_labels(items, rows), said[rows]):
            return said
    return _read_labels(items, list(range(n)))


def _read_labels(items: Items, rows: list[int]) -> np.ndarray:
    """Return the class numbers of these items, which are read."""
    parts = DataLoader(
        _Labels(items),
        batch_size=None,
        sampler=[rows[start : start + 256] for start in range(0, len(rows), 256)],
        num_workers=default_workers() if len(rows) > _FEW else 0,
        generator=torch.Generator(),
    )
    found: list[int] = []
    with seeded_draws(items.generators):
        for part in parts:
            if isinstance(part, ClatError):
                raise part
            found += part
    return np.array(found, dtype=np.int64)


class _Labels(Dataset):
    """The labels of lists of rows; errors travel back as values."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, rows: list[int]) -> list[int] | ClatError:
        try:
            return [self.items.read(row)[1] for row in rows]
        except ClatError as error:
            return ClatError(str(error))


def raw_item(dataset: Any, row: int, where: str) -> Any:
    """Return an item as the data set gives it.

    Args:
        dataset: anything with items by number.
        row: which one.
        where: what the data set is called in messages.

    Returns:
        Whatever the item is.

    Raises:
        ClatError: whatever the data set raised, in one line.
    """
    try:
        return dataset[row]
    except ClatError:
        raise
    except Exception as error:
        raise ClatError(f"item {row} of {where} failed, {type(error).__name__}: {first_line(error)}") from error


def declared_labels(dataset: Any) -> np.ndarray | None:
    """Return the class numbers that a data set says it has, in `targets`, `labels` or `_labels`.

    Args:
        dataset: any torch data set; of a `Subset` or `ConcatDataset` it is what the data sets inside say.

    Returns:
        int64, (N,), which need not be what its items have; None where it says nothing.
    """
    if isinstance(dataset, Subset):
        inside = declared_labels(dataset.dataset)
        return None if inside is None else inside[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [declared_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    found = dataset.tensors[-1] if isinstance(dataset, TensorDataset) else None
    for name in ("targets", "labels", "_labels"):  # torchvision has all three
        found = getattr(dataset, name, None) if found is None else found
    try:
        values = np.asarray(found)
    except (ValueError, TypeError, RuntimeError):
        return None
    return values.astype(np.int64) if values.ndim == 1 and values.dtype.kind in "iu" else None


def _class_number(label: Any, row: int, where: str) -> int:
    if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        shape = f" of shape {tuple(label.shape)}" if isinstance(label, Tensor | np.ndarray) else ""
        raise ClatError(
            f"item {row} of {where} has a {kind_of(label)}{shape} for a label: expected (image, label), the label a"
            " whole number"
        )
    return label


def _looks_like_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3))


def _no_pair(item: Any, row: int, where: str) -> ClatError:
    if isinstance(item, Mapping):
        what = f"a mapping with {', '.join(map(str, item)) or 'nothing'}"
    elif isinstance(item, tuple | list):
        what = f"a {kind_of(item)} of {len(item)}"
    else:
        what = f"a {kind_of(item)}"
    return ClatError(f"item {row} of {where} is {what}: expected (image, label)")
