"""Recipes as plain data: files and built-in ones by name, what they extend, overrides of single fields.

Nothing here knows a field, so a slip in a name is told without loading torch; `clat.recipe.toml` checks fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError, nearest, unknown
from clat.core.parsing import parse_toml
from clat.recipe.inherited import make_way, replace_network


def built_in_recipes() -> dict[str, Path]:
    """Return the recipes that come with clat.

    Returns:
        Name -> file, sorted by name.
    """
    folder = Path(str(files("clat") / "recipe" / "built_in"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_source(source: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain data of the recipe in a TOML file, or of the built-in one of that name, with overrides.

    Args:
        source: a path, or a built-in recipe's name.
        overrides: command-line pairs, see `clat.recipe.toml.read_recipe`.

    Returns:
        Nested tables, in which no field has been checked yet.

    Raises:
        ClatError: a missing file, broken TOML, or an override that cannot be placed.
    """
    data = _read_toml(source)
    pairs = override_pairs(overrides)
    _replace_network(data, _nested(pairs))
    set_fields(data, pairs)
    return data


@dataclass(frozen=True)
class Origin:
    """Where a recipe's plain data are from, for messages.

    Attributes:
        source: as for `read_source`.
        overrides: as for `read_source`.
    """

    source: str | Path
    overrides: Sequence[str] = ()

    def holder(self, location: Sequence[int | str], where: str) -> str:
        """Return the name of the file that says what stands at a place of the recipe.

        Args:
            location: keys and numbers from the outside in; the last one may be missing.
            where: the same as an override names it.

        Returns:
            The file's path; "recipe" where an override may have said it, or the recipe is a built-in one.
        """
        spelled = f"{where.replace('-', '_')}."
        given = [f"{key}." for key, _ in override_pairs(self.overrides)]
        if any(key.startswith(spelled) or spelled.startswith(key) for key in given) or (given and not where):
            return "recipe"
        files = _files(self.source)
        places = [location[:end] for end in range(len(location), 0, -1)]
        having = next((path for place in places for path, data in files if _has(data, place)), files[0][0])
        return "recipe" if having in built_in_recipes().values() else str(having)


def _files(source: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a recipe's file and those that it extends, with what each says by itself."""
    found = [_read_own(source, None)]
    while isinstance(base := found[-1][1].get("extends"), str):
        found.append(_read_own(base, found[-1][0].parent))
    return found


def _has(data: Any, location: Sequence[int | str]) -> bool:
    """Return whether there is anything at a place of nested tables and lists."""
    for part in location:
        known = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if part not in known:
            return False
        data = data[part]
    return True


def _read_toml(source: str | Path, beside: Path | None = None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the plain data of a recipe file or a built-in recipe.

    A recipe that `extends` another (a built-in name, or a file beside it) states only what differs; its `stages`,
    if any, replace the other's as a whole.
    """
    path, data = _read_own(source, beside)
    base = data.pop("extends", None)
    if base is None:
        return data
    seen = (*seen, path.resolve())
    if not isinstance(base, str) or path.resolve() in seen[:-1]:
        raise ClatError(f"{path}: extends is {base!r}, expected the name of another recipe")
    whole = _read_toml(base, path.parent, seen)
    _replace_network(whole, data)
    for table in whole.keys() & data.keys():
        if isinstance(whole[table], dict) and isinstance(own := data[table], dict):
            for field, value in own.items():
                make_way(whole[table], table, field, value)
    return merged(whole, data)


def _read_own(source: str | Path, beside: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the file of a recipe, and what it says by itself."""
    path = Path(source) if beside is None else beside / source
    if not path.is_file():
        recipes = built_in_recipes()
        if path.is_dir() and str(source) not in recipes:
            run = (path / "recipe.toml").is_file()
            raise ClatError(
                f"'{path}' is a run's folder: its recipe is {path / 'recipe.toml'}; the run goes on with --resume"
                if run
                else f"'{path}' is a folder: give the .toml file of a recipe"
            )
        if len(Path(source).parts) > 1 or str(source) not in recipes:
            raise _no_recipe(path, str(source), recipes)
        path = recipes[str(source)]
    try:
        return path, parse_toml(path.read_text())
    except ValueError as error:
        raise ClatError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ClatError(f"cannot read {path}: {error.strerror}") from None


def _no_recipe(path: Path, source: str, recipes: Iterable[str]) -> ClatError:
    """Return the error for a recipe that is neither a file nor built in: it names the file that may be meant."""
    built_in = "clat recipes lists the built-in ones"
    there = (path.with_suffix(".toml"), path.with_name(f"{path.name}.toml"))
    close = next((file for file in there if file.is_file()), None)
    if path.suffix or len(Path(source).parts) > 1:
        names = [file.name for file in path.parent.glob("*.toml")]
        close = close or next((path.with_name(name) for name in [nearest(path.name, names)] if name), None)
        hint = ";" if close is None else f", did you mean {close}?"
        return ClatError(f"recipe file {path} not found: no such file{hint} {built_in}")
    if close is not None:
        return ClatError(f"no recipe '{source}' is built in, and no such file: did you mean {close}? {built_in}")
    return ClatError(f"{unknown('recipe', source, recipes)}; and there is no such file; {built_in}")


def _replace_network(data: dict[str, Any], new: dict[str, Any]) -> None:
    """Take out of `data` what does not hold for the network that `new` names."""
    if isinstance(data.get("model"), dict) and isinstance(new.get("model"), dict):
        replace_network(data["model"], new["model"])


def _nested(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the overrides of [model] as tables; which are sound is told where they are set."""
    tables: dict[str, Any] = {}
    for key, value in pairs:
        *parents, last = key.split(".")
        place = tables
        for parent in parents if key.startswith("model.") else ():
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                return {}
        place[last] = value
    return tables


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return one table laid over another; tables in both are merged, everything else is replaced.

    Args:
        base: the table below.
        own: the entries that win.

    Returns:
        A new table; neither argument is changed.
    """
    both = {key: (base[key], own[key]) for key in base.keys() & own.keys()}
    tables = {key: merged(*pair) for key, pair in both.items() if all(isinstance(side, dict) for side in pair)}
    return base | own | tables


def override_pairs(arguments: Sequence[str], command: str | None = None) -> list[tuple[str, Any]]:
    """Return the overrides on a command line as pairs.

    Args:
        arguments: words such as ["--a.b", "1", "--c=x"].
        command: the one whose help says what it takes besides.

    Returns:
        (field, value) each, here ("a.b", 1) and ("c", "x"), with "_" for "-" in fields; values are read as TOML,
        else taken as text.

    Raises:
        ClatError: a word that is no override, or one without a value.
    """
    pairs = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            look = "overrides look like --data.train_size 2000"
            raise ClatError(
                f"unexpected argument '{word}'" + (f": {look}" if command is None else f" (see {command} --help)")
            )
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ClatError(f"override --{key} has no value: write --{key} VALUE")
            text = rest.pop(0)
        pairs.append((key.replace("-", "_"), read_value(text)))
    return pairs


def read_value(text: str) -> Any:
    """Return what a value on the command line means.

    Args:
        text: the word as it was typed.

    Returns:
        TOML's value where the text is TOML, else the text itself.
    """
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def set_fields(data: dict[str, Any], pairs: Iterable[tuple[str, Any]]) -> None:
    """Set fields of a recipe's plain data, making tables as needed.

    What does not go with a new kind of schedule and the like is left out, but for what is given beside it.

    Args:
        data: nested tables, changed in place.
        pairs: as `override_pairs` returns them.

    Raises:
        ClatError: as `set_field` does.
    """
    given = list(pairs)
    kept = {_numbered(data, key) for key, _ in given}
    kept |= {f"{_numbered(data, key)}.{name}" for key, value in given if isinstance(value, dict) for name in value}
    for key, value in given:
        set_field(data, key, value, kept)


def set_field(data: dict[str, Any], whole: str, value: Any, kept: Collection[str] = ()) -> None:
    """Set one field of a recipe's plain data.

    Args:
        data: nested tables, changed in place.
        whole: the field's place in them, such as "stages.clat.epochs"; lists go by number or `name`.
        value: what it is set to.
        kept: fields that stay, though they may not go with the value; as `_numbered` calls them.

    Raises:
        ClatError: there is no such stage, or a value stands where the field's table would be.
    """
    *parents, last = whole.split(".")
    place: Any = data
    for key in parents:
        place = _item(place, key, whole) if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise ClatError(f"override --{whole}: '{key}' is a value, not a table")
    if isinstance(place, list):
        raise ClatError(f"override --{whole}: name a field of '{last}', such as --{whole}.epochs")
    beside = _numbered(data, whole).removesuffix(last)
    kept = {field.removeprefix(beside) for field in kept if field.startswith(beside)}
    make_way(place, parents[-1] if parents else "", last, value, kept)
    place[last] = value


def _numbered(data: Any, whole: str) -> str:
    """Return a field's place with numbers for the names of stages, of which either may be given."""
    parts: list[str] = []
    for part in whole.split("."):
        if isinstance(data, list):
            try:
                item = _item(data, part, whole)
            except ClatError:
                return whole  # which is told where it is set
            part = next(str(number) for number, one in enumerate(data) if one is item)
            data = item
        else:
            data = data.get(part) if isinstance(data, dict) else None
        parts.append(part)
    return ".".join(parts)


def _item(items: list[Any], key: str, whole: str) -> Any:
    names = {str(item.get("name", "")).replace("-", "_"): item for item in items if isinstance(item, dict)}
    numbered = items[int(key)] if key.isdecimal() and len(key) < 10 and int(key) < len(items) else None
    named = names.get(key)
    if named is not None and numbered is not None and named is not numbered:
        raise ClatError(
            f"override --{whole}: '{key}' is the name of one stage and the number of another: rename the stage"
        )
    if named is not None or numbered is not None:
        return numbered if named is None else named
    raise unknown(
        "stage", key, (str(item["name"]) for item in names.values() if "name" in item), where=f" in --{whole}"
    )
