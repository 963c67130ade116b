"""A recipe in full, as TOML: every field with its value, its type, its default and what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import tomli_w

from clat.core.units import Size
from clat.recipe.own_pieces import own_class
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_data

WIDTH = 100
"""The width of the comments, in characters."""

NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "none"}


def explained_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML that says all there is to say.

    Fields that are not set stand there as comments, and so do tables that are not there.

    Args:
        recipe: any recipe.

    Returns:
        TOML with a comment on each field; reading it gives an equal recipe.
    """
    return "\n".join(_table(Recipe, recipe_data(recipe), ())).strip() + "\n"


def _table(cls: Any, data: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Give the lines of a table: its plain fields first, as TOML needs, then the tables below."""
    hints = typing.get_type_hints(cls)
    below = []
    for field in sorted(dataclasses.fields(cls), key=lambda one: one.name != "name"):  # which tells what a table is
        name, hint = field.name.rstrip("_"), hints[field.name]
        if field.metadata.get("flat"):  # what it holds stands beside it in the table
            names = {one.name for one in dataclasses.fields(cls)}
            yield from (f"{key} = {_value(value)}" for key, value in data.items() if key not in names)
            continue
        if _dataclasses(hint):
            below.append((name, hint, field))
            continue
        yield from _comment(_docs(cls).get(field.name, ""))
        about = f"  # {_type(hint)}, {_default(field)}"
        yield f"{name} = {_value(data[name])}{about}" if name in data else f"# {name} ={about}"
    for name, hint, field in below:
        known = _dataclasses(hint)
        inside = (*path, name)
        is_list = typing.get_origin(hint) is tuple
        tables = data.get(name, []) if is_list else [data[name]] if name in data else []
        heading = f"[[{'.'.join(inside)}]]" if is_list else f"[{'.'.join(inside)}]"
        choice = f" One of: {', '.join(_called(one) for one in known)}." if len(known) > 1 else ""
        doc = f"{_docs(cls).get(field.name, '')}{choice}".strip()
        if not tables:
            yield ""
            yield from _comment(f"{heading} is not there. {doc}")
        for table in tables:
            own = own_class(known, table)
            named = [one for one in known if _called(one) == table.get("name")] if own is None else [own]
            # Of a union with a member for all other names, as that of the optimizers, it is the one without a name.
            (member,) = known if len(known) == 1 else named or [one for one in known if not hasattr(one, "name")]
            yield ""
            yield from _comment(doc or (inspect.getdoc(member) or "").partition("\n\n")[0])
            yield heading
            yield from _table(member, table, inside)


def _comment(text: str) -> list[str]:
    """Return a text as comment lines; a name with a dash or a path is not cut in two."""
    words = " ".join(text.split())
    return [f"# {line}" for line in textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False)]


def _value(value: Any) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return tomli_w.dumps({"v": value}).partition("=")[2].strip()


def _key(name: str) -> str:
    """Return a key in TOML, in quotes where it needs them."""
    return tomli_w.dumps({name: 0}).partition(" = 0")[0]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return f"default {'none' if field.default is None else _value(field.default)}"


def _type(hint: Any) -> str:
    """Return a type in words."""
    if hint == Size:
        return 'number or fraction such as "8/255"'
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(map(_value, arguments))
    if origin in (typing.Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        inner = _type(typing.Union[tuple(rest)]) if len(rest) < len(arguments) else ""  # noqa: UP007
        return f"{inner}, or none" if inner else " or ".join(map(_type, rest))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(map(_type, arguments))}"
    if origin is dict:
        return "table"
    return NAMES.get(hint, str(hint))


def _dataclasses(hint: Any) -> list[Any]:
    """Return the dataclasses that a field may hold."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [one for argument in typing.get_args(hint) for one in _dataclasses(argument)]


def _called(cls: Any) -> str:
    """Return the name that tells a member of a union; its class's where it stands for all other names."""
    return str(getattr(cls, "name", cls.__name__))


@cache
def _docs(cls: Any) -> dict[str, str]:
    """Return field -> the text below it in the source of a class, or of the one that it inherits the field from."""
    docs: dict[str, str] = {}
    bases: list[Any] = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    for one in reversed(bases):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant) and isinstance(text.value, str):
                assert isinstance(field.target, ast.Name)
                docs[field.target.id] = text.value
    return docs
