"""Code of the user's own, named `package.module:object` and imported from the current directory too."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError

_OURS = Path(__file__).parents[1]


def find_object(name: str, shown: str) -> Any:
    """Import the object that `package.module:object` names; dots after the colon reach into classes.

    Args:
        name: such as ``mypackage.nets:build``.
        shown: what messages call it: ``model 'mypackage.nets:build'``.

    Returns:
        The object.

    Raises:
        ClatError: the import fails, or there is no such object.
    """
    module, _, inside = name.partition(":")
    try:
        return reduce(getattr, inside.split("."), importlib.import_module(module))
    except AttributeError as error:
        raise ClatError(f"{shown}: {error}; check the name after the colon") from error
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise ClatError(
                f"{shown}: no module {missing} in the current folder ({os.getcwd()}) or installed: run the command "
                f"where {missing.replace('.', '/')}.py lies, or set PYTHONPATH"
            ) from error
        raise ClatError(
            f"{shown}: importing '{module}' failed, {type(error).__name__}: {error}; write package.module:name"
        ) from error


def find_callable(name: str, what: str) -> Callable[..., Any]:
    """Import a function or class that `package.module:object` names.

    Args:
        name: such as ``mypackage.nets:build``.
        what: what it is taken for, for messages: ``model``.

    Returns:
        The object, which can be called.

    Raises:
        ClatError: as `find_object`, or it cannot be called.
    """
    found = find_object(name, f"{what} '{name}'")
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


@cache
def is_users(filename: str) -> bool:
    """Return whether a file of code is the user's: neither this package's nor one that was installed.

    Args:
        filename: as code objects name it.

    Returns:
        False also for what is no file, such as ``<string>``.
    """
    if filename.startswith("<"):
        return False
    return not any(Path(filename).resolve().is_relative_to(place) for place in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of this package, of Python and of what was installed."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [_OURS, Path(sys.prefix), *(Path(place) for name in names if (place := sysconfig.get_path(name)))]
    return tuple(place.resolve() for place in places)
