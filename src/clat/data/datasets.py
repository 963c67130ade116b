"""`load_split`: any image data set by its name, as an `ImageSet`."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clat.core.errors import ClatError, unknown
from clat.core.memory import available_memory
from clat.core.notices import notice
from clat.core.seeds import permutation
from clat.data import cache as copies
from clat.data.classes import Classes, Labels, number_classes, read_classes
from clat.data.columns import WantedColumns
from clat.data.decode import EncodedImages
from clat.data.decoded import decoded_copy
from clat.data.image_files import LARGEST, to_array
from clat.data.imageset import ImageSet
from clat.data.lazy import LazyImages, default_workers
from clat.data.readers import read_by_own_reader
from clat.data.sources import locate, open_table
from clat.data.tree import shown

DIGITS_TRAIN = 1297
"""Images of ``digits/train``; the other 500 are ``digits/test``."""
DIGITS_LARGEST = 512
"""Pixels a side up to which the digits, 8x8, may be resized: they are held in memory."""

RESIDENT_LIMIT = 2**31
"""Bytes of pixels that are held in memory at most, where nobody says otherwise."""
_FEW = 4096  # images that one process decodes sooner than worker processes start


def load_split(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    image_size: int | None = None,
    resident_limit: int | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    classes: Classes | None = None,
    cache: bool = True,
    workers: int | None = None,
    decoded: bool = False,
) -> ImageSet:
    """Read one split of an image data set.

    Args:
        name: one of
            ``digits``: scikit-learn's 8x8 handwritten digits, which need no files;
            a known name such as ``cifar10``: the folder of that name in ``CLAT_DATA_DIR`` (default:
            ``clat/data`` in the user cache);
            a folder: images in one sub-folder a class, with or without ``train`` and ``test`` folders above
            them; parquet files in the Hugging Face layout; or a list of images, metadata.csv or train.csv;
            ``owner/name`` or ``owner/name:config``: a data set on the Hugging Face hub;
            ``package.module:function`` or an entry point: a reader of your own, see docs/extending.md.
        split: ``train`` or ``test``, or any other split that is there. Where there is no ``test``,
            ``validation`` stands in for it, and the set's notes say so.
        image_size: pixels. Resizes the shorter side (bicubic, antialiased) and keeps the centre square.
            Without it all images must have one size.
        resident_limit: bytes. A set whose pixels need no more is decoded into memory now, a larger one stays
            lazy.
        label_column: the column to predict; by default ``label``, ``fine_label``, then any ClassLabel column, then
            ``target`` and the like.
        image_column: the column of the images; by default one that holds images by type, then ``image``,
            ``file_name`` and the like.
        classes: the classes in the order of a network's outputs: names, or a text: names with commas, a file (JSON
            list, or one name a line), a folder (its sub-folders). By default those of the train split, also for
            another split in which some are missing; names that are numbers in numeric order, others as text.
        cache: keep the decoded pixels of a resident set under ``CLAT_CACHE_DIR`` (default: the user cache),
            found again as long as no source file changes. Those files may be deleted at any time.
        workers: decoding processes; by default one a core for more than a few thousand images.
        decoded: decode a set that is not resident once, into a mapped file in the same place, of one byte a channel
            and pixel, and read that. Not for a reader of your own.

    Returns:
        RGB images, uint8, in the files' order (grey repeated over the channels).

    Raises:
        ClatError: no such data set, split or column; no labels; a class that is not in the list; an unreadable
            image, named by its row; no room for the decoded copy.
    """
    text = os.fspath(name)
    largest = DIGITS_LARGEST if text == "digits" else LARGEST
    if image_size is not None and not 1 <= image_size <= largest:
        raise ClatError(f"image_size is {image_size}, expected 1 to {largest} pixels")
    listed = None if classes is None else read_classes(classes)
    if resident_limit is None:
        resident_limit = default_resident_limit()
    if text == "digits":
        return _digits(split, image_size, listed)

    own = read_by_own_reader(
        text, split, image_size=image_size, label_column=label_column, image_column=image_column, classes=listed
    )
    if own is not None:
        if decoded and not own.resident:
            notice(f"data.decoded is for files of images: those of {text} are read as its reader gives them")
        return own
    wanted = WantedColumns(label_column=label_column, image_column=image_column, classes=listed)
    folder = locate(text)
    title = text if folder is None else shown(folder.resolve().name)
    key = (split, image_size, wanted)
    path = source = None
    if cache and folder is not None:  # asked for before `datasets` is imported: that makes the second start quick
        source = copies.folder_fingerprint(folder)
        path = copies.copy_path(title, *key, source)
        copy = copies.read_copy(path, folder)
        if copy is not None and copy.nbytes <= resident_limit:
            return copy

    table = open_table(text, folder, split, wanted)
    outside = copies.files_fingerprint(folder or Path(), table.outside)
    origin = f"from {'the Hugging Face hub' if folder is None else shown(str(folder))}"
    where = f"{title}/{split}"
    image_set = ImageSet(
        name=title,
        split=split,
        class_names=table.class_names,
        images=EncodedImages(table.rows, table.image_column, where=where, size=image_size, root=table.root),
        labels=table.labels,
        description="; ".join((origin, *table.notes)),
        notes=table.notes,
    )
    if image_set.nbytes > resident_limit:
        if not decoded:
            return image_set
        if source is None:
            source = table.fingerprint if folder is None else copies.folder_fingerprint(folder)
        path = copies.copy_path(title, *key, source, *([outside] if outside else []))
        return _from_copy(image_set, path, workers)
    if cache and folder is None:
        path = copies.copy_path(title, *key, table.fingerprint)
        copy = copies.read_copy(path)
        if copy is not None:
            return copy
    if workers is None:
        workers = default_workers() if len(image_set) > _FEW else 0
    image_set = image_set.load(workers)
    if path is not None and not copies.write_copy(path, image_set, table.outside, outside):
        notice(
            f"the decoded images of '{title}' are not kept for the next time: {path.parent} cannot be written to "
            "or is full; set CLAT_CACHE_DIR"
        )
    return image_set


def _from_copy(image_set: ImageSet, path: Path, workers: int | None) -> ImageSet:
    """Return a lazy set that reads its decoded copy, which is made unless it is there."""
    images = image_set.images
    assert isinstance(images, LazyImages)
    count = default_workers() if workers is None else workers
    where = f"{image_set.name}/{image_set.split}"
    return replace(image_set, images=decoded_copy(images, path.with_suffix(".npy"), name=where, workers=count))


def default_resident_limit() -> int:
    """Return how many bytes of pixels may be held in memory.

    Returns:
        RESIDENT_LIMIT, or a quarter of the memory that is left, where that is less.
    """
    return min(RESIDENT_LIMIT, available_memory() // 4)


def _digits_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the grey levels (1797, 64) of scikit-learn's digits, and their labels (1797,).

    They are read from the file in its package, where that is where it always was: scikit-learn itself takes seconds
    to import.
    """
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


def _digits(split: str, image_size: int | None, classes: tuple[str, ...] | None) -> ImageSet:
    """scikit-learn's 1,797 digits (Alpaydin and Kaynak, 1998): 8x8, 17 grey levels, uint8 = round(v * 255 /
    16).

    They are stored writer by writer and published without a split here, so one fixed permutation
    (``permutation(1797, "digits")``) gives its first 1,297 to train and its last 500 to test.
    """
    if split not in ("train", "test"):
        raise unknown("split of digits", split, ("train", "test"))
    values, target = _digits_table()
    grey = np.rint(values.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    labels, class_names, notes = number_classes(
        Labels(target.astype(np.int64), tuple("0123456789")), None, classes, f"digits/{split}"
    )
    order = permutation(len(grey), "digits")
    chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    pixels = np.stack([to_array(Image.fromarray(image), image_size) for image in grey[chosen.numpy()]])
    return ImageSet(
        name="digits",
        split=split,
        class_names=class_names,
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels)[chosen],
        description="scikit-learn's digits, fixed random split of 1,297 to 500",
        notes=tuple(notes),
    )
