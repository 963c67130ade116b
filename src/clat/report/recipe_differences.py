"""What differs between recipes: the settings that have several values, and who has which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from clat.core.errors import ClatError
from clat.recipe.schema import Recipe
from clat.recipe.toml import read_recipe, recipe_data, recipe_hash
from clat.training.trackers import flattened

_ABSENT = object()


class Difference(NamedTuple):
    """One setting: its dotted name, as `clat train` takes it, and value -> the numbers of the recipes with it."""

    setting: str
    values: dict[str, list[int]]


def recipe_differences(recipes: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the settings in which recipes differ.

    Stages are compared with those of the same name. Settings that only follow from another difference are left
    out: those of a stage or table that some recipes lack, and fields that another objective does not have.

    Args:
        recipes: as TOML holds them, with every default written out; one that is not known is empty.

    Returns:
        The differences, in the order of the recipes' settings; the name of a recipe is none.
    """
    known = [(number, _by_stage(recipe)) for number, recipe in enumerate(recipes) if recipe]
    flat = [(number, flattened(recipe)) for number, recipe in known]
    keys = dict.fromkeys(key for _, settings in flat for key in settings)
    found = [_difference("stages", [(number, recipe["stage names"]) for number, recipe in known])]
    for key in keys:
        named = key in ("name", "stage names") or (key.startswith("stages.") and key.endswith(".name"))
        if named and key.count(".") < 3:  # the name of the recipe, or of a stage
            continue
        found.append(_difference(key, _valued(key, flat)))
    return [one for one in found if len(one.values) > 1]


def _by_stage(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe whose stages are a table by name instead of a list."""
    stages: dict[str, Any] = {}
    for stage in recipe.get("stages") or ():
        name = str(stage.get("name", f"stage {len(stages) + 1}"))
        stages[name if name not in stages else f"{name} ({len(stages) + 1})"] = stage
    return {**recipe, "stage names": ", then ".join(stages) or "none", "stages": stages}


def _valued(key: str, flat: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, Any]]:
    """Return recipe and value of those that have the table of a setting, none where it follows from a name."""
    table = key.rpartition(".")[0]
    with_table = [one for one in flat if not table or any(name.startswith(f"{table}.") for name in one[1])]
    values = [(number, settings.get(key, _ABSENT)) for number, settings in with_table]
    names = {settings.get(f"{table}.name") for _, settings in with_table}
    follows = len(names) > 1 and any(value is _ABSENT for _, value in values)
    return [] if follows and not key.endswith(".name") else values


def _difference(key: str, values: Sequence[tuple[int, Any]]) -> Difference:
    by_value: dict[str, list[int]] = {}
    for number, value in values:
        by_value.setdefault(_text(value), []).append(number)
    return Difference(key, by_value)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def seed_notes(runs: Sequence[tuple[str, Path]]) -> list[str]:
    """Return a note on runs that are called seeds and have different recipes.

    Args:
        runs: the name of each result, and the folder of its run.

    Returns:
        One line with the settings that differ, or none; what does not decide the weights may. Recipes that cannot
        be read, as those of a later version, are passed over.
    """
    found: list[tuple[str, Recipe]] = []
    for name, run in runs:
        with suppress(ClatError):
            found.append((name, replace(read_recipe(run / "recipe.toml"), seed=0)))
    for name, recipe in found[1:]:
        first, known = found[0]
        if recipe_hash(recipe) != recipe_hash(known):
            apart = recipe_differences([recipe_data(known), recipe_data(recipe)])
            listed = ", ".join(one.setting for one in apart)
            return [f"{first} and {name} are of recipes that differ in more than the seed: {listed}"]
    return []
