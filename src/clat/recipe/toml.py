"""Recipe files: TOML in, a checked `Recipe` out, and back again."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import typing
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clat.core.errors import ClatError, unknown
from clat.recipe.optimizer import OTHER, OWN
from clat.recipe.schema import Recipe

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

LATER_OPTIMIZER = {"name": "sgd", "decay_norms_and_biases": True, "layer_decay": 1.0}
"""The same of an optimizer's table."""

SHAPES = dict.fromkeys(("dataclass_type", "model_attributes_type"), "a table, { ... }")
SHAPES |= {"tuple_type": "a list, [ ... ]"}
"""pydantic's problems with a value's shape, in TOML's words."""


def built_in_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with clat."""
    folder = Path(str(files("clat") / "recipe" / "built_in"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or the built-in one of that name, with overrides applied.

    `overrides`: command-line pairs such as ["--stages.clat.epochs", "5", "--data.name=cifar10"]; stages are
    addressed by name or by number from 0. Raises ClatError for a missing file, broken TOML, unknown fields
    (with the nearest valid name) and values that do not fit.
    """
    data = _read_toml(source)
    for key, value in _pairs(overrides):
        _set(data, key.split("."), value, key)
    return build_recipe(data)


def _read_toml(source: str | Path, beside: Path | None = None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The plain data of a recipe file or a built-in recipe. A recipe that `extends` another (a built-in name, or
    a file beside it) states only what differs; its `stages`, if any, replace the other's as a whole."""
    path = Path(source) if beside is None else beside / source
    if not path.is_file():
        recipes = built_in_recipes()
        if Path(source).suffix == ".toml" or len(Path(source).parts) > 1:
            raise ClatError(f"recipe file {path} not found")
        if str(source) not in recipes:
            raise unknown("recipe", source, recipes)
        path = recipes[str(source)]
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClatError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ClatError(f"cannot read {path}: {error.strerror}") from None
    base = data.pop("extends", None)
    if base is None:
        return data
    seen = (*seen, path.resolve())
    if not isinstance(base, str) or path.resolve() in seen[:-1]:
        raise ClatError(f"{path}: extends is {base!r}, expected the name of another recipe")
    return merged(_read_toml(base, path.parent, seen), data)


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `own`; tables are merged, everything else is replaced."""
    both = {key: (base[key], own[key]) for key in base.keys() & own.keys()}
    tables = {key: merged(*pair) for key, pair in both.items() if all(isinstance(side, dict) for side in pair)}
    return base | own | tables


def build_recipe(data: dict[str, Any]) -> Recipe:
    """A `Recipe` from plain nested data, every field checked."""
    try:
        recipe = _adapter().validate_python(data)
    except ValidationError as error:
        raise ClatError(_one_line(error)) from None
    _refuse_truth_as_number(data, recipe)
    return recipe


def _refuse_truth_as_number(given: Any, built: Any, where: tuple[str, ...] = ()) -> None:
    """pydantic takes true for 1, which in a recipe is a slip of the pen."""
    if isinstance(given, bool) and not isinstance(built, bool):
        raise ClatError(f"recipe: {'.'.join(where)}: expected no truth value (got {given})")
    if isinstance(given, dict):
        for key, value in given.items():
            name = key if hasattr(built, key) else f"{key}_"
            _refuse_truth_as_number(value, getattr(built, name, value), (*where, key))
    elif isinstance(given, list | tuple) and isinstance(built, list | tuple):
        for number, pair in enumerate(zip(given, built, strict=True)):
            _refuse_truth_as_number(*pair, (*where, str(number)))


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """Plain nested data, fully resolved; unset optional fields are left out, as TOML has no null."""
    dumped = _adapter().dump_python(recipe, mode="json", by_alias=True, exclude_none=True)
    return typing.cast(dict[str, Any], dumped)


def recipe_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; reading it gives an equal recipe."""
    return tomli_w.dumps(recipe_data(recipe))


def recipe_hash(recipe: Recipe, stages: int | None = None) -> str:
    """A short hash of everything that decides the weights after the first `stages` stages (None: all).

    The name, the later stages, the evaluation and the checkpoint interval do not enter.
    """
    data = recipe_data(recipe)
    for outside in ("name", "evaluation"):
        data.pop(outside)
    data["engine"].pop("checkpoint_seconds")
    if not data["engine"]["compile"]:  # as in runs from before there was a choice
        data["engine"].pop("compile")
    for table in (data["optimizer"], *(stage["optimizer"] for stage in data["stages"] if "optimizer" in stage)):
        _drop(table, LATER_OPTIMIZER)
    for table in (data["schedule"], *(stage["schedule"] for stage in data["stages"] if "schedule" in stage)):
        _drop(table, {"warmup": 0.0})
    for stage in data["stages"]:
        _drop(stage["objective"], LATER.get(stage["objective"]["name"], {}))
    if stages is not None:
        data["stages"] = data["stages"][:stages]
        if all(stage.schedule is not None for stage in recipe.stages[:stages]):
            del data["schedule"]  # which is for stages that have none of their own
        elif data["schedule"]["kind"] != "constant":
            data["schedule"]["span"] = recipe.schedule.epochs or recipe.total_epochs
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _drop(table: dict[str, Any], before: dict[str, Any]) -> None:
    """Take the fields out that are what they were `before` there was a choice."""
    for field, value in before.items():
        if table.get(field) == value:
            del table[field]


def _pairs(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """["--a.b", "1", "--c=x"] -> [("a.b", 1), ("c", "x")]; values are read as TOML, else taken as text."""
    pairs = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ClatError(f"unexpected argument '{word}': overrides look like --data.train_size 2000")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ClatError(f"override --{key} has no value: write --{key} VALUE")
            text = rest.pop(0)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        pairs.append((key.replace("-", "_"), value))
    return pairs


def _set(data: dict[str, Any], keys: list[str], value: Any, whole: str) -> None:
    """Set data[keys[0]][keys[1]]... = value, making tables as needed; lists go by number or `name`."""
    *parents, last = keys
    place: Any = data
    for key in parents:
        place = _item(place, key, whole) if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise ClatError(f"override --{whole}: '{key}' is a value, not a table")
    if isinstance(place, list):
        raise ClatError(f"override --{whole}: name a field of '{last}', such as --{whole}.epochs")
    place[last] = value


def _item(items: list[Any], key: str, whole: str) -> Any:
    if key.isdigit() and int(key) < len(items):
        return items[int(key)]
    names = {str(item.get("name", "")).replace("-", "_"): item for item in items if isinstance(item, dict)}
    if key in names:
        return names[key]
    raise unknown(f"stage in --{whole}", key, names)


@cache
def _adapter() -> TypeAdapter[Recipe]:
    """The checker of recipes. Every dataclass below `Recipe` is marked as refusing unknown fields and numbers that
    are not finite."""
    for config in _dataclasses(Recipe):
        config.__pydantic_config__ = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)
    return TypeAdapter(Recipe)


def _dataclasses(annotation: Any, seen: dict[str, type] | None = None) -> list[Any]:
    """Every dataclass that a type annotation reaches."""
    seen = {} if seen is None else seen
    name = getattr(annotation, "__qualname__", "")
    if dataclasses.is_dataclass(annotation) and name not in seen:
        seen[name] = typing.cast(type, annotation)
        for hint in typing.get_type_hints(annotation).values():
            _dataclasses(hint, seen)
    for argument in typing.get_args(annotation):
        _dataclasses(argument, seen)
    return list(seen.values())


def _one_line(error: ValidationError) -> str:
    """The first problem of a validation error: where, what, and the nearest valid name."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if part not in (OWN, OTHER))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        key = str(problem["loc"][-1])
        near = difflib.get_close_matches(key, _field_names(problem["loc"][:-1]), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"recipe: unknown field '{where}'{hint}"
    if problem["type"] == "union_tag_invalid":
        valid = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
        return f"recipe: {where}: {unknown('name', problem['ctx']['tag'], valid)}"
    if problem["type"] == "value_error":
        return f"recipe: {where + ': ' if where else ''}{problem['ctx']['error']}"
    if problem["type"] == "missing":
        return f"recipe: {where} is missing"
    if problem["type"] == "union_tag_not_found":
        return f"recipe: {where}.name is missing"
    if problem["type"] in SHAPES:
        return f"recipe: {where}: expected {SHAPES[problem['type']]} (got {problem['input']!r})"
    return f"recipe: {where}: {problem['msg'].lower()} (got {problem['input']!r})"


def _field_names(where: tuple[int | str, ...]) -> list[str]:
    """The valid fields at a place of the recipe: walks the annotations along the error's location."""
    here: list[Any] = [Recipe]
    for part in where:
        if isinstance(part, int):
            continue
        hints = [typing.get_type_hints(cls)[part] for cls in here if part in typing.get_type_hints(cls)]
        tagged = [cls for cls in here if getattr(cls, "name", None) == part]  # a union's member, told by its tag
        here = _direct(hints[0]) if hints else tagged or here
    return [entry.name.rstrip("_") for cls in here for entry in dataclasses.fields(cls)]


def _direct(annotation: Any) -> list[Any]:
    """The dataclasses named in an annotation itself, not those of their fields."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for argument in typing.get_args(annotation) for cls in _direct(argument)]
