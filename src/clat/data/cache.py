"""Where data lies, and the decoded copies of small data sets that make the second start quick.

A copy is one safetensors file: pixels, labels and, in its header, the names and a checksum. It is found by a
fingerprint of its source files, written beside its place and moved there in one step, and never needed:
whatever is wrong with it or its folder, the images are decoded again. Files that a list or table names outside its
folder are only known once that is read: the copy's header has them, with a fingerprint of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clat.core.errors import ClatError
from clat.core.files import new_file
from clat.data.imageset import ImageSet
from clat.data.tree import read_tree

_FORMAT = 2  # counts changes of what decoding gives; an older copy is then never found


def cache_root() -> Path:
    """Return the folder for what can be made again.

    Returns:
        ``CLAT_CACHE_DIR``, else ``clat`` in the user's cache folder, by the custom of the system. It need not
        exist.
    """
    if chosen := os.environ.get("CLAT_CACHE_DIR"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "clat"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "clat" / "Cache"
    return Path(os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")) / "clat"


def data_root() -> Path:
    """Return the folder whose sub-folders are known data sets.

    Returns:
        ``CLAT_DATA_DIR``, else ``data`` in `cache_root`. It need not exist.
    """
    chosen = os.environ.get("CLAT_DATA_DIR")
    return Path(chosen).expanduser() if chosen else cache_root() / "data"


def folder_fingerprint(folder: Path) -> str:
    """Return a hash over the path, size and modification time of every file under `folder`; no file is opened.

    Args:
        folder: an existing folder; hidden files in it do not count.

    Returns:
        32 hexadecimal digits, which change when a file or a folder is added, removed or written.

    Raises:
        ClatError: a folder that cannot be listed.
    """
    tree = read_tree(folder)
    digest = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16)
    digest.update(repr(sorted(tree.content)).encode())  # an empty folder is a class too
    _add_files(digest, folder, tree.below(""))
    return digest.hexdigest()


def files_fingerprint(folder: Path, paths: Iterable[str]) -> str:
    """Return a hash over the path, size and modification time of some files; none is opened.

    Args:
        folder: where paths begin that are not absolute.
        paths: of the files, which need not exist.

    Returns:
        32 hexadecimal digits, which change when one of the files is written, removed or made; "" for no files.
    """
    names = list(paths)
    digest = hashlib.blake2b(digest_size=16)
    _add_files(digest, folder, names)
    return digest.hexdigest() if names else ""


def _add_files(digest: hashlib.blake2b, folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        digest.update(os.fsencode(f"{path}\0"))
        with contextlib.suppress(OSError, ValueError):  # a link that leads nowhere, or no path at all
            stat = os.stat(folder / path)
            digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\n".encode())


def copy_path(name: str, split: str, *key: object) -> Path:
    """Return the place of the decoded copy of one split.

    Args:
        name: the data set's.
        split: the split's.
        key: everything else that the content depends on, told apart by `repr`.

    Returns:
        A .safetensors file in `cache_root`, which need not exist.
    """
    digest = hashlib.blake2b(repr((_FORMAT, name, split, *key)).encode(), digest_size=8).hexdigest()
    readable = re.sub(r"[^\w.-]+", "-", f"{name}-{split}").strip("-.")
    return cache_root() / "decoded" / f"{readable}-{digest}.safetensors"


def read_copy(path: Path, folder: Path = Path()) -> ImageSet | None:
    """Return the resident `ImageSet` stored at `path`.

    Args:
        path: as `copy_path` gives it.
        folder: the data set's.

    Returns:
        The set as it was stored; None when there is none, its content is damaged, or a file outside `folder` that
        it was made of has changed since.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["clat"])
            if meta.pop("outside_fingerprint") != files_fingerprint(folder, meta.pop("outside")):
                return None
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        if meta.pop("checksum") != _checksum(images, labels):
            return None
        meta["class_names"], meta["notes"] = tuple(meta["class_names"]), tuple(meta["notes"])
        return ImageSet(images=images, labels=labels, **meta)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ClatError):
        return None


def write_copy(path: Path, image_set: ImageSet, outside: Sequence[str] = (), fingerprint: str = "") -> bool:
    """Store an `ImageSet` at `path`, in one step.

    Args:
        path: as `copy_path` gives it; its folder is made.
        image_set: a resident one.
        outside: the files that it was made of beside those of `folder_fingerprint`.
        fingerprint: what `files_fingerprint` said of them before they were read.

    Returns:
        True if it is stored; False, and nothing is left behind, where that is not possible.
    """
    images, labels = image_set.images, image_set.labels
    assert isinstance(images, torch.Tensor)
    meta = {
        "name": image_set.name,
        "split": image_set.split,
        "class_names": image_set.class_names,
        "description": image_set.description,
        "notes": image_set.notes,
        "outside": list(outside),
        "outside_fingerprint": fingerprint,
        "checksum": _checksum(images, labels),
    }
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_file(path.parent, "tmp", ".part")
        save_file({"images": images, "labels": labels}, temporary, metadata={"clat": json.dumps(meta)})
        os.replace(temporary, path)
    except (OSError, SafetensorError):  # read-only folder, full disk: the copy is only a convenience
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return False
    return True


def _checksum(images: torch.Tensor, labels: torch.Tensor) -> int:
    """Return the CRC-32 over both arrays: it finds damage, and at about 1 GB/s does not slow the start down."""
    return zlib.crc32(labels.numpy().data, zlib.crc32(images.contiguous().numpy().data))
