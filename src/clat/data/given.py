"""Images that come from Python, in the forms in which people have them, as an `ImageSet`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from clat.core.checks import kind_of
from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.data.arrays import image_array, label_array
from clat.data.channels import with_channels
from clat.data.classes import Classes, Labels, all_numbers, are_numbers, number_classes, read_classes
from clat.data.columns import WantedColumns
from clat.data.datasets import default_resident_limit, load_split
from clat.data.decode import EncodedImages
from clat.data.hf_objects import has_transform, is_of_datasets, names_of_labels, open_dataset
from clat.data.imageset import ImageSet
from clat.data.items import DatasetImages, declared_labels, open_items, read_item_labels
from clat.data.lazy import FloatImages, LazyImages
from clat.data.split_names import find_split, train_of
from clat.data.torch_loader import dataset_of

FORMS = (
    "an ImageSet, a torch Dataset or DataLoader, a datasets.Dataset or DatasetDict, (images, labels) as tensors or"
    " NumPy arrays, or a folder's path"
)


@dataclass(frozen=True)
class _Found:
    """What a source holds."""

    images: Tensor | LazyImages
    labels: Labels
    name: str
    notes: list[str] = field(default_factory=list)
    doubted: tuple[str, ...] | None = None
    """Names of classes that are there, and may not be those of the labels."""


def as_image_set(
    source: Any,
    split: str = "train",
    *,
    image_size: int | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    classes: Classes | None = None,
    channels: int | None = None,
    resident_limit: int | None = None,
    train_labels: Labels | None = None,
) -> ImageSet:
    """Read images and labels of your own, in whatever form you have them.

    Args:
        source: an `ImageSet`, which is returned as it is, and has to be what is asked for; a torch ``Dataset``; a
            ``DataLoader``, which stands for its data set or the items that its sampler is limited to; a
            ``datasets.Dataset``; (images, labels) as tensors or NumPy arrays; a mapping of splits to any of these,
            such as a ``DatasetDict``; or a name or path as for `load_split`. Images are uint8, or floating-point in
            [0, 1]. Items of a data set are (image, label), or mappings.
        split: which one of a mapping or a folder; else only what the set is called. Where there is no ``test``,
            ``validation`` stands in for it, and the set's notes say so.
        image_size: pixels, of images that are decoded here: see `load_split`. Arrays have to have that size.
        label_column: the column, or the key of an item, to predict.
        image_column: the column, or the key of an item, of the images.
        classes: as for `load_split`; by default the names that the source has, or the numbers.
        channels: 1 makes images grey, 3 repeats grey ones.
        resident_limit: bytes of pixels to decode into memory; see `load_split`. A torch ``Dataset`` is always read
            when it is needed.
        train_labels: of the train split, which decides on the numbers of the classes.

    Returns:
        The images with their labels; what is not in memory stays where it is until it is needed.

    Raises:
        ClatError: a source of another form, or one without images or labels that fit it; it says what to do.
    """
    if isinstance(source, ImageSet):
        return _as_it_is(source, image_size, channels, classes)
    if isinstance(source, str | os.PathLike):
        asked = {"label_column": label_column, "image_column": image_column, "classes": classes}
        limit = {"image_size": image_size, "resident_limit": resident_limit}
        return with_channels(load_split(source, split, **asked, **limit), channels)  # type: ignore[arg-type]
    listed = None if classes is None else read_classes(classes)
    wanted = WantedColumns(label_column=label_column, image_column=image_column, classes=listed)
    notes: tuple[str, ...] = ()
    if isinstance(source, Mapping):
        splits = {str(name): part for name, part in source.items()}
        name, notes = find_split(split, splits, kind_of(source))
        train = train_of(splits, name)
        if train_labels is None and train is not None:
            train_labels = _labels_of(splits[train], wanted, image_size)
        source = splits[name]
        if isinstance(source, ImageSet):
            return _as_it_is(replace(source, notes=(*notes, *source.notes)), image_size, channels, classes)
    found = _read(source, wanted, split, image_size)
    return _numbered(found, split, wanted, train_labels, notes, image_size, channels, resident_limit)


def _as_it_is(images: ImageSet, size: int | None, channels: int | None, classes: Any) -> ImageSet:
    """Return the set, which is not changed any more; refuse what is asked for and it is not."""
    where, (own, *pixels) = f"'{images.name}/{images.split}'", images.shape
    if size is not None and pixels != [size, size]:
        raise ClatError(f"{where} is an ImageSet of {pixels[1]}x{pixels[0]} pixels: read it with image_size={size}")
    if channels is not None and channels != own:
        raise ClatError(f"{where} is an ImageSet of {counted(own, 'channel')}: read it with channels={channels}")
    if classes is not None and read_classes(classes) != images.class_names:
        raise ClatError(f"{where} is an ImageSet whose classes have an order already: read it with classes=[...]")
    return images


def as_train_and_test(data: Any, **settings: Any) -> tuple[ImageSet, ImageSet]:
    """Read train and test images of your own.

    Args:
        data: (train, test), each as for `as_image_set`; or one source of both: a mapping of splits, such as a
            ``DatasetDict``, or a name or path.
        settings: as of `as_image_set`.

    Returns:
        (train, test), their classes numbered as train has them.

    Raises:
        ClatError: as `as_image_set`, or a source that is train alone.
    """
    if isinstance(data, str | os.PathLike | Mapping):
        train = test = data
    elif isinstance(data, tuple | list) and len(data) == 2 and not _is_array(data[0]):
        train, test = data
    else:
        what = "(images, labels)" if isinstance(data, tuple | list) else f"a {kind_of(data)}"
        raise ClatError(f"data is {what}: expected (train, test), each {FORMS}; or one folder or mapping of both")
    train_set = as_image_set(train, "train", **settings)
    known = None
    if not isinstance(test, ImageSet | str | os.PathLike):
        known = Labels(train_set.labels.numpy(), train_set.class_names)
    return train_set, as_image_set(test, "test", **settings, train_labels=known)


def _read(source: Any, wanted: WantedColumns, split: str, image_size: int | None) -> _Found:
    if isinstance(source, DataLoader):
        source = dataset_of(source, split)
    if isinstance(source, IterableDataset) or is_of_datasets(source, "IterableDataset", "IterableDatasetDict"):
        raise ClatError(
            f"the {split} data are a stream ({kind_of(source)}): give a data set with a length and numbered items"
        )
    if type(source) is TensorDataset and len(source.tensors) == 2:
        source = source.tensors
    if isinstance(source, tuple | list) and len(source) == 2 and _is_array(source[0]):
        where = f"the {split} data"
        if isinstance(source[0], np.memmap):
            source = _Mapped(source[0], label_array(source[1], len(source[0]), where).values)
        else:
            images = image_array(source[0], where)
            labels = label_array(source[1], len(images), where)
            return _Found(images if images.dtype == torch.uint8 else FloatImages(images), labels, "arrays")
    if is_of_datasets(source, "Dataset") and not has_transform(source):
        return _of_table(source, wanted, split, image_size)
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")) or isinstance(source, tuple | list):
        raise ClatError(f"the {split} data are a {kind_of(source)}: expected {FORMS}")
    return _of_items(source, wanted, split, image_size)


def _of_table(dataset: Any, wanted: WantedColumns, split: str, image_size: int | None) -> _Found:
    """Read a ``datasets.Dataset``."""
    name = str(getattr(dataset.info, "dataset_name", None) or "dataset")
    if len(dataset) == 0:
        raise ClatError(f"the {split} data set '{name}' is empty")
    part = open_dataset(dataset, wanted, name)
    images = EncodedImages(part.rows, part.image_column, where=f"{name}/{split}", size=image_size, root=part.root)
    return _Found(images, part.labels, name)


def _of_items(dataset: Any, wanted: WantedColumns, split: str, image_size: int | None) -> _Found:
    """Read a torch data set, or anything that has a length and items."""
    name = "arrays" if isinstance(dataset, _Mapped) else type(dataset).__name__
    where = f"the {split} data ({name})"
    if len(dataset) == 0:
        raise ClatError(f"{where} are empty")
    items = open_items(dataset, wanted, where)
    values = read_item_labels(items)
    images = DatasetImages(items, values, size=image_size)
    named, believed = _class_names(dataset, items.keys[1], values)
    notes = images.notes_on_draws()
    if named is not None and not believed:
        few = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
        notes.append(f"its classes ({few}) are not taken for its labels, which may be others: give classes=[...]")
    return _Found(images, Labels(values, named if believed else None), name, notes, None if believed else named)


def _numbered(
    found: _Found,
    split: str,
    wanted: WantedColumns,
    train: Labels | None,
    notes: Sequence[str],
    image_size: int | None,
    channels: int | None,
    resident_limit: int | None,
) -> ImageSet:
    """Put together what was found, its classes numbered as `wanted` and the train split say."""
    own, where = found.labels, f"{found.name}/{split}"
    if wanted.classes is not None:
        train = None
    elif train is not None and found.doubted and not _numbers_alone(train) and found.doubted != train.names:
        raise ClatError(
            f"'{where}' has classes ({', '.join(found.doubted[:3])}, ...), other than the train split's, and"
            " whether its labels are numbers of them cannot be told: say which classes they are, classes=[...]"
        )
    elif own.names is None and own.values.dtype.kind == "i" and train is not None and train.names is not None:
        own = Labels(own.values, train.names)
    elif train is not None and own.names is not None and _numbers_alone(train) and not all_numbers(own.names):
        own = Labels(own.values)  # train has these numbers, without the names
    if own.names is not None and len(own.values) and own.values.max() >= len(own.names):
        row = int(own.values.argmax())
        raise ClatError(f"'{where}': row {row} has label {own.values[row]}, expected 0 to {len(own.names) - 1}")
    values, names, more = number_classes(own, train, wanted.classes, where, as_they_are=True)
    images = ImageSet(
        name=found.name,
        split=split,
        class_names=names,
        images=found.images,
        labels=torch.from_numpy(np.ascontiguousarray(values)),
        description=f"{len(values)} images from Python",
        notes=(*notes, *found.notes, *more),
    )
    if image_size is not None and images.shape[1:] != (image_size, image_size):
        height, width = images.shape[1:]
        raise ClatError(
            f"images of '{where}' are {width}x{height} pixels and image_size is {image_size}: leave it out, or"
            " resize them"
        )
    images = with_channels(images, channels)
    limit = default_resident_limit() if resident_limit is None else resident_limit
    return images.load() if isinstance(found.images, EncodedImages) and images.nbytes <= limit else images


def _numbers_alone(labels: Labels) -> bool:
    """Return whether labels are numbers of classes that are called by them, 0, 1, 2, ..., or by nothing."""
    return labels.values.dtype.kind == "i" if labels.names is None else are_numbers(labels.names)


def _labels_of(source: Any, wanted: WantedColumns, image_size: int | None) -> Labels:
    """The labels of the train split."""
    if isinstance(source, ImageSet):
        return Labels(source.labels.numpy(), source.class_names)
    return _read(source, wanted, "train", image_size).labels


def _class_names(dataset: Any, key: Any, values: np.ndarray) -> tuple[tuple[str, ...] | None, bool]:
    """Find the `classes` of a data set, or of the one that it is a part of.

    They are the names of its labels where the labels that it says it has are these; of the data set itself, or a
    `Subset` of it, also where it says nothing of them, and has no `target_transform`. Of one of ``datasets`` it is
    the names of its features; `key`: what an item calls its label.

    Returns:
        The names, if there are any that could be, and whether they are those of the labels.
    """
    if isinstance(dataset, ConcatDataset):
        parts = zip(dataset.datasets, np.split(values, dataset.cumulative_sizes[:-1]), strict=True)
        found = {_class_names(part, key, own) for part, own in parts if len(own)}
        return found.pop() if len(found) == 1 else (None, False)
    names, rows, itself = None, None, True
    while dataset is not None:
        if is_of_datasets(dataset, "Dataset"):
            return (named := names_of_labels(dataset, key, rows, values)), named is not None
        names = getattr(dataset, "classes", None)
        if names is not None:
            break
        chosen = _chosen_rows(dataset)
        if chosen is not None:
            rows = chosen if rows is None else [chosen[row] for row in rows]
        itself = itself and isinstance(dataset, Subset)
        dataset = getattr(dataset, "dataset", None)
    if not isinstance(names, list | tuple) or len(names) <= values.max() or len(set(map(str, names))) < len(names):
        return None, False
    said = declared_labels(dataset)
    if said is None:
        believed = itself and getattr(dataset, "target_transform", None) is None
    else:
        said = said if rows is None or len(said) != len(dataset) else said[np.asarray(rows, dtype=np.int64)]
        believed = np.array_equal(said, values)
    return tuple(map(str, names)), believed


def _chosen_rows(dataset: Any) -> list[int] | None:
    """Return the rows of another data set that one consists of, as a `Subset` and many others call them."""
    indices = getattr(dataset, "indices", None)
    if getattr(dataset, "dataset", None) is None or indices is None:
        return None
    try:
        rows = np.asarray(indices)
    except (TypeError, ValueError):  # lists of several lengths, a tensor on a GPU
        return None
    return rows.tolist() if rows.shape == (len(dataset),) and rows.dtype.kind in "iu" else None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


class _Mapped:
    """An array that stays in its file, and labels, as items."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return np.asarray(self.images[row]), int(self.targets[row])
