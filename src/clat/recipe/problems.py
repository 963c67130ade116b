"""What is wrong with a recipe, in one line that names the place and the nearest valid field."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from clat.core.errors import unknown
from clat.recipe.optimizer import OTHER, OWN
from clat.recipe.own_pieces import own_class
from clat.recipe.schema import Recipe
from clat.recipe.source import Origin

SHAPES = dict.fromkeys(("dataclass_type", "model_attributes_type"), "a table, { ... }")
SHAPES |= {"tuple_type": "a list, [ ... ]"}
"""pydantic's problems with a value's shape, in TOML's words."""

Location = tuple[int | str, ...]


def first_problem(error: ValidationError, data: dict[str, Any], origin: Origin | None = None) -> str:
    """Return the first problem of a validation error: where, what, and the nearest valid name.

    Args:
        error: pydantic's.
        data: the plain data that was validated.
        origin: the file and the overrides that they are from, if any.

    Returns:
        One line that begins with the file, or with "recipe:".
    """
    problem = error.errors(include_url=False)[0]
    location = written(problem["loc"], data)
    where = place_in_words(location, data)
    recipe = "recipe" if origin is None else origin.holder(location, where)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{recipe}: unknown field '{where}'{_nearest_field(problem['loc'], data)}"
    if problem["type"] == "union_tag_invalid":
        valid = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
        return f"{recipe}: {where}: {unknown('name', problem['ctx']['tag'], valid)}"
    if problem["type"] == "value_error":
        return f"{recipe}: {where + ': ' if where else ''}{problem['ctx']['error']}"
    if problem["type"] == "missing":
        return f"{recipe}: {where} is missing"
    if problem["type"] == "union_tag_not_found":
        return f"{recipe}: {where}.name is missing"
    if problem["type"] in SHAPES:
        return f"{recipe}: {where}: expected {SHAPES[problem['type']]} (got {problem['input']!r})"
    return f"{recipe}: {where}: {problem['msg'].lower()} (got {problem['input']!r})"


def written(location: Location, data: Any) -> Location:
    """Return a place of a recipe without the names of pieces that pydantic puts between a table and its fields.

    Args:
        location: pydantic's, from the outside in.
        data: the recipe's plain data.

    Returns:
        Keys and numbers that lead through the data; the last one may be missing there.
    """
    found: list[int | str] = []
    for number, part in enumerate(location):
        here = isinstance(data, dict) and part not in data
        if part in (OWN, OTHER) or (here and (number < len(location) - 1 or data.get("name") == part)):
            continue
        found.append(part)
        data = _item(data, part)
    return tuple(found)


def place_in_words(location: Sequence[int | str], data: dict[str, Any]) -> str:
    """Return a place of a recipe as it is written on the command line: stages by name where no two share it.

    Args:
        location: keys and numbers from the outside in.
        data: the recipe's plain data.

    Returns:
        Such as "stages.clat.epochs".
    """
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] == "stages" and isinstance(data.get("stages"), list | tuple):
        names = [_item(stage, "name") for stage in data["stages"]]
        name = names[int(parts[1])]
        parts[1] = name if isinstance(name, str) and names.count(name) == 1 else parts[1]
    return ".".join(parts)


def fields_called(name: str) -> list[str]:
    """Return where a recipe has fields of a name.

    Args:
        name: the field's, without its table.

    Returns:
        Their places, the outermost first, such as ["schedule.lr"].
    """
    return sorted(set(_below([Recipe], {}, name)), key=lambda path: (path.count("."), path))


def _nearest_field(location: Location, data: dict[str, Any]) -> str:
    """Return a hint: fields of that very name in a table below, else one with a similar name beside it."""
    *parents, key = location
    classes, table = _place(tuple(parents), data)
    found = sorted(_below(classes, table, str(key)), key=lambda path: path.count("."))[:3]
    found = found or difflib.get_close_matches(str(key), _field_names(classes), n=1, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(name) for name in found)}?" if found else ""


def _place(location: Location, data: Any) -> tuple[list[Any], Any]:
    """Return the dataclasses that may stand at a place of the recipe, and what was given there."""
    here: list[Any] = [Recipe]
    for part in location:
        tagged = [cls for cls in here if getattr(cls, "name", None) == part]  # a union's member, told by its tag
        hints = [typing.get_type_hints(cls)[part] for cls in here if part in typing.get_type_hints(cls)]
        if isinstance(part, int) or hints:
            data = _item(data, part)
        if not isinstance(part, int):
            here = _direct(hints[0]) if hints else tagged or here
        own = own_class(here, data)
        here = here if own is None else [own]
    return here, data


def _item(data: Any, part: int | str) -> Any:
    if isinstance(part, int):
        return data[part] if isinstance(data, list | tuple) and part < len(data) else None
    return data.get(part) if isinstance(data, dict) else None


def _below(classes: Sequence[Any], data: Any, key: str, passed: tuple[Any, ...] = ()) -> Iterator[str]:
    """Give the paths of the fields called `key` in the tables below, stages and the like by their names."""
    for cls in classes:
        for name, hint in typing.get_type_hints(cls).items():
            value = _item(data, name)
            items = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
            for position, table in items:
                called = _item(table, "name")
                known = _direct(hint)
                # Of a union, the member that is there; a table that is not there may be any if there is but one.
                inner = known if len(known) == 1 else [one for one in known if _is_called(one, called)]
                inner = [one for one in inner if one not in passed]
                path = name if position is None else f"{name}.{called or position}"
                if any(key in _field_names([one]) for one in inner):
                    yield f"{path}.{key}"
                for deeper in _below(inner, table, key, (*passed, cls)):
                    yield f"{path}.{deeper}"


def _is_called(cls: Any, name: Any) -> bool:
    """Return whether a table of this name, or of none, is this member of a union."""
    return getattr(cls, "needs_no_name", False) if name is None else getattr(cls, "name", None) == name


def _field_names(classes: Sequence[Any]) -> list[str]:
    # The constructor's words, of which a selection takes more than it has fields: its ranking's settings beside it.
    return [name.rstrip("_") for cls in classes for name in inspect.signature(cls).parameters]


def _direct(annotation: Any) -> list[Any]:
    """Return the dataclasses named in an annotation itself, not those of their fields."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for argument in typing.get_args(annotation) for cls in _direct(argument)]
