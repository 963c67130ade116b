"""Readers of the user's own: functions `(split) -> ImageSet`, named by a recipe's `data.name`."""

from __future__ import annotations

import os
import re
from typing import Any

from clat.core.errors import ClatError
from clat.core.plugins import PluginKind, called_with, is_path
from clat.data.cache import data_root
from clat.data.imageset import ImageSet

READERS = PluginKind("data reader", "clat.data_readers")


def read_by_own_reader(name: str, split: str, **options: Any) -> ImageSet | None:
    """Return a split as a reader of the user's own gives it.

    A folder of that name, or one under `CLAT_DATA_DIR`, goes before: paths are taken literally.

    Args:
        name: "package.module:function", or the name of an entry point.
        split: the part of the data set.
        options: what else was asked for; a reader is given those that it has as keywords.

    Returns:
        The images and labels; None where the name means no such reader.

    Raises:
        ClatError: it cannot be imported, takes no such option, fails, or gives something else than an ImageSet.
    """
    if _is_there(name) or not (is_path(name) or re.fullmatch(r"\w[\w-]*", name)):
        return None
    reader = READERS.find(name)
    if reader is None:
        return None
    if not callable(reader):
        raise ClatError(f"data reader '{name}' is a {type(reader).__name__}, expected a function of the split")
    settings = called_with(reader, options, f"the data reader '{name}'")
    try:
        found = reader(split, **settings)
    except ClatError:
        raise
    except Exception as error:
        raise ClatError(f"data reader '{name}' failed on '{split}', {type(error).__name__}: {error}") from error
    if not isinstance(found, ImageSet):
        raise ClatError(f"data reader '{name}' gives a {type(found).__name__}, expected a clat.ImageSet")
    return found


def _is_there(name: str) -> bool:
    return os.path.isdir(os.path.join(data_root(), name)) or os.path.exists(name)
