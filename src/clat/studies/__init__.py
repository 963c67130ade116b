"""Studies: the papers' tables as lists of recipes, run under one budget each, and their results in one table.

A study's rows, which need torch, are loaded when the study is first asked for; its name is known before.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clat.core.errors import unknown

if TYPE_CHECKING:
    from clat.studies.row import Row, Scale, Study

__all__ = ["STUDIES", "Row", "Scale", "Study", "find_study"]


class _Studies(UserDict[str, Any]):
    """Name -> study. NAME in `clat.studies.tables.name` is loaded when its value is read."""

    def __getitem__(self, name: str) -> Study:
        found = super().__getitem__(name)
        return getattr(import_module(f"clat.studies.tables.{name}"), name.upper()) if found is None else found


STUDIES = _Studies(
    dict.fromkeys(("baselines", "competitors", "claim", "cosine", "alone", "precision", "hardening"))
)


def find_study(name: str) -> Study:
    """Return the study of a name.

    Args:
        name: one of `STUDIES`.

    Returns:
        The study; its module, which needs torch, is loaded here.

    Raises:
        ClatError: If there is no such study; the message has the nearest name.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


def __getattr__(name: str) -> Any:
    """Load `Row`, `Scale` and `Study` when they are first asked for."""
    if name in __all__:
        return getattr(import_module("clat.studies.row"), name)
    raise AttributeError(f"module 'clat.studies' has no attribute '{name}'")
