"""The built-in recipes in groups, a line each. What a recipe is for is read from its data; torch is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clat.recipe.source import built_in_recipes, read_source

SMALL = "To begin with: narrow networks, for a CPU"
CLAT_ALONE = "CLAT on a network that is trained already"
THEN_CLAT = "A method, then CLAT"
WITHOUT = "Methods without CLAT, to compare with"
GROUPS = (SMALL, CLAT_ALONE, THEN_CLAT, WITHOUT)
"""In the order in which a reader needs them."""


def grouped_recipes() -> dict[str, dict[str, str]]:
    """Return the built-in recipes in the groups of `GROUPS`.

    Returns:
        Group -> name -> the line that says what the recipe is.
    """
    found: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    for name, path in sorted(built_in_recipes().items()):
        found[_group(read_source(name))][name] = description(path)
    return found


def description(path: Path) -> str:
    """Return the first line of a recipe file, which is a comment on all of it.

    Args:
        path: a built-in recipe's file.

    Returns:
        The line without its ``#``.
    """
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _group(data: dict[str, Any]) -> str:
    moved_by_clat = [str(stage["objective"]["name"]).startswith("clat") for stage in data["stages"]]
    if "width" in data.get("model", {}):
        return SMALL
    if all(moved_by_clat):
        return CLAT_ALONE
    return THEN_CLAT if any(moved_by_clat) else WITHOUT
