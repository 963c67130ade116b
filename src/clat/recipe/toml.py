"""Recipe files: TOML in, a checked `Recipe` out, and back again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clat.core.checks import LARGEST, shown_number
from clat.core.errors import ClatError
from clat.criticality.rankings import RANKINGS
from clat.criticality.selection import FLAT
from clat.recipe.problems import first_problem, place_in_words
from clat.recipe.schema import Recipe
from clat.recipe.source import Origin, built_in_recipes, merged, read_source

__all__ = ["build_recipe", "built_in_recipes", "merged", "read_recipe", "recipe_data", "recipe_hash", "recipe_toml"]

LATER: dict[str, dict[str, Any]] = {
    "pgd-at": {"random_start": True},
    "fast-at": {"random_start": True},
    "twins": {"random_start": True},
    "clat": {"feature_input": "feature"},
    "clat-fast": {"feature_input": "feature"},
    "trades": {"start": "normal"},
    "cure": {"start": "normal"},
}
"""Settings that objectives did not always have, and what earlier runs did: at that value they do not enter the
hash, so that such runs can still be resumed and reused."""
for _name in (
    *("standard", "pgd-at", "fast-at", "free-at", "grad-align", "mart", "cure", "autolora", "twins", "mixing"),
    *("clat", "clat-fast", "clat-plus"),
):
    LATER[_name] = {**LATER.get(_name, {}), "label_smoothing": 0.0}

LATER_ENGINE: dict[str, Any] = {"compile": False, "checkpoint_blocks": False, "nodes": 1}
"""What engines did before there was a choice."""
LATER_OPTIMIZER = {"name": "sgd", "decay_norms_and_biases": True, "layer_decay": 1.0}
"""The same of an optimizer's table."""


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a TOML file, or the built-in one of that name, with overrides applied.

    Args:
        source: a path, or a built-in recipe's name.
        overrides: command-line words such as ["--stages.clat.epochs", "5", "--data.name=cifar10"]; stages are
            addressed by name or by number from 0.

    Returns:
        The recipe, every field checked; its precision may still be "auto".

    Raises:
        ClatError: a missing file, broken TOML, an unknown field (with the nearest valid name), or a value that does
            not fit.
    """
    return build_recipe(read_source(source, overrides), Origin(source, overrides))


def build_recipe(data: dict[str, Any], origin: Origin | None = None) -> Recipe:
    """Return the recipe that plain nested data describe, every field checked.

    Args:
        data: tables as a recipe file has them, with `stages` as a list.
        origin: what they were read from, which messages name.

    Returns:
        The recipe, with defaults where a field is not given.

    Raises:
        ClatError: an unknown field (with the nearest valid name), or a value that does not fit.
    """
    try:
        recipe = _adapter().validate_python(data)
    except ValidationError as error:
        raise ClatError(first_problem(error, data, origin)) from None
    for location, problem in _slips(data, recipe):
        where = place_in_words(location, data)
        raise ClatError(f"{'recipe' if origin is None else origin.holder(location, where)}: {where}: {problem}")
    return recipe


def _slips(
    given: Any, built: Any, where: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Give place and fault of what pydantic takes: true where a number is due, and numbers that torch refuses."""
    if isinstance(given, int) and abs(given) > LARGEST:
        yield where, f"expected a whole number of 64 bits (got {shown_number(given)})"
    if isinstance(given, bool) and not isinstance(built, bool):
        yield where, f"expected no truth value (got {given})"
    if isinstance(given, dict):
        for key, value in given.items():
            name = key if hasattr(built, key) else f"{key}_"
            inside = built.get(key, value) if isinstance(built, dict) else getattr(built, name, value)
            yield from _slips(value, inside, (*where, key))
    elif isinstance(given, list | tuple) and isinstance(built, list | tuple):
        for number, pair in enumerate(zip(given, built, strict=True)):
            yield from _slips(*pair, (*where, number))


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain nested data, with every default written out.

    Args:
        recipe: any recipe.

    Returns:
        What TOML and JSON can hold; optional fields that are not set are left out, as TOML has no null.
    """
    dumped = _adapter().dump_python(recipe, mode="json", by_alias=True, exclude_none=True)
    return typing.cast(dict[str, Any], dumped)


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, with every default written out.

    Args:
        recipe: any recipe.

    Returns:
        The text of a recipe file; reading it gives an equal recipe.
    """
    return tomli_w.dumps(recipe_data(recipe))


def recipe_hash(recipe: Recipe, stages: int | None = None) -> str:
    """Return a short hash of everything that decides the weights after the first stages.

    The name, the later stages, the evaluation, the checkpoint interval, where parameters lie and a decoded copy do
    not enter. The precision does, as it is on this machine: a run records that one, so a recipe with "auto" hashes
    like the run that it becomes here.

    Args:
        recipe: any recipe.
        stages: how many stages count, from the first; None: all.

    Returns:
        16 hexadecimal digits.
    """
    data = recipe_data(recipe.resolved())
    for outside in ("name", "evaluation"):
        data.pop(outside)
    for outside in ("checkpoint_seconds", "shard"):
        data["engine"].pop(outside)
    data["monitor"].pop("loggers", None)
    data["data"].pop("decoded")  # the same pixels, from another file
    _drop(data["engine"], LATER_ENGINE)
    for table in (data["optimizer"], *(stage["optimizer"] for stage in data["stages"] if "optimizer" in stage)):
        _drop(table, LATER_OPTIMIZER)
    for table in (data["schedule"], *(stage["schedule"] for stage in data["stages"] if "schedule" in stage)):
        _drop(table, {"warmup": 0.0, "start": 0.0})
    for stage in data["stages"]:
        _drop(stage["objective"], LATER.get(stage["objective"]["name"], {}))
        if "selection" in stage:
            stage["selection"] = _as_before_tables(stage["selection"])
    if stages is not None:
        data["stages"] = data["stages"][:stages]
        if all(stage.schedule is not None for stage in recipe.stages[:stages]):
            del data["schedule"]  # which is for stages that have none of their own
        elif data["schedule"]["kind"] != "constant":
            data["schedule"]["span"] = recipe.schedule.epochs or recipe.total_epochs
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _as_before_tables(selection: dict[str, Any]) -> dict[str, Any]:
    """Return a selection as it entered the hash before rankings had tables, so that such runs keep theirs.

    Settings that there were not, or could not be told, enter where they are not at their defaults.
    """
    ranking = dict(selection["ranking"])
    name = ranking.pop("name")
    if name not in RANKINGS:
        return selection
    default = RANKINGS[name]().settings()
    flat = {key: value for key, value in ranking.items() if key in (*FLAT, "alpha")}
    added = {key: value for key, value in ranking.items() if key not in flat and value != default[key]}
    return {**selection, **FLAT, **flat, "ranking": name, **({"settings": added} if added else {})}


def _drop(table: dict[str, Any], before: dict[str, Any]) -> None:
    """Take the fields out that are what they were `before` there was a choice."""
    for field, value in before.items():
        if table.get(field) == value:
            del table[field]


@cache
def _adapter() -> TypeAdapter[Recipe]:
    """Return the checker of recipes.

    Every dataclass below `Recipe` is marked as refusing unknown fields and numbers that are not finite.
    """
    for config in _dataclasses(Recipe):
        config.__pydantic_config__ = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)
    return TypeAdapter(Recipe)


def _dataclasses(annotation: Any, seen: dict[str, type] | None = None) -> list[Any]:
    """Return every dataclass that a type annotation reaches."""
    seen = {} if seen is None else seen
    name = getattr(annotation, "__qualname__", "")
    if dataclasses.is_dataclass(annotation) and name not in seen:
        seen[name] = typing.cast(type, annotation)
        for hint in typing.get_type_hints(annotation).values():
            _dataclasses(hint, seen)
    for argument in typing.get_args(annotation):
        _dataclasses(argument, seen)
    return list(seen.values())
