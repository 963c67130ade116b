"""Fill the API pages while the site is built.

A line `@public clat.attacks` becomes the reference of every name in that package's `__all__`; names after it choose
some of them. Each is shown under its shortest public name, but read from where it is defined: a function may have
the name of its own module (`clat.attacks.pgd`), and then the public path alone is ambiguous.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

import clat

LINE = re.compile(r"^@public (\S+)(.*)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each `@public` line of a page by what mkdocstrings reads."""
    return LINE.sub(lambda found: "\n".join(map(_directive, shown(found))), markdown)


def shown(found: re.Match[str]) -> list[str]:
    """Return the paths that a `@public` line stands for, such as "clat.attacks.pgd", without those of modules."""
    package = importlib.import_module(found[1])
    names = found[2].split() or package.__all__
    return [f"{found[1]}.{name}" for name in names if not isinstance(getattr(package, name), ModuleType)]


def _directive(path: str) -> str:
    package, _, name = path.rpartition(".")
    target = getattr(importlib.import_module(package), name)
    heading = f"clat.{name}" if getattr(clat, name, None) is target else path
    return f"::: {_definition(path, target)}\n    options:\n      heading: {heading}\n      toc_label: {name}\n"


def _definition(path: str, target: object) -> str:
    """Return where `target` is defined. Constants do not know it and keep the path of the package."""
    home = getattr(target, "__module__", None)
    if isinstance(home, str) and home.startswith("clat.") and hasattr(target, "__qualname__"):
        return f"{home}.{target.__qualname__}"
    return path
