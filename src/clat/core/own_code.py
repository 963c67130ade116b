"""Code of the user's own, named `package.module:object` and imported from the current directory too."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

from clat.core.errors import ClatError


def find_callable(name: str, what: str) -> Callable[..., Any]:
    """Import the object that `package.module:object` names; dots after the colon reach into classes.

    Args:
        name: such as ``mypackage.nets:build``.
        what: what it is taken for, for messages: ``model``.

    Raises:
        ClatError: the import fails, there is no such object, or it cannot be called.
    """
    module_name, _, path = name.partition(":")
    try:
        found = reduce(getattr, path.split("."), importlib.import_module(module_name))
    except AttributeError as error:
        raise ClatError(f"{what} '{name}': {error}; check the name after the colon") from error
    except Exception as error:
        raise ClatError(
            f"{what} '{name}': importing '{module_name}' failed, {type(error).__name__}: {error}; "
            "write package.module:factory"
        ) from error
    if not callable(found):
        raise ClatError(f"{what} '{name}': a {type(found).__name__} cannot be called; name a function or a class")
    return found


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Import from the current directory first, as `python -m` does; the search path is put back after."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
