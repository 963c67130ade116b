"""Pieces of the user's own in recipes and on the command line: `package.module:name`, or an entry point's name.

What is built in is found first, and an entry point cannot take its name. A piece with settings is a dataclass,
checked field by field as the built-in ones are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any

from clat.core.errors import ClatError, unknown
from clat.core.own_code import current_directory_importable, find_object

PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
"""What `package.module:name` looks like."""


def is_path(name: object) -> bool:
    """Return whether a name has the form of a piece of the user's own, "package.module:name".

    Args:
        name: any value of a recipe or of the command line.

    Returns:
        True if it is a text of that form; nothing is imported.
    """
    return isinstance(name, str) and PATH.fullmatch(name) is not None


@dataclass(frozen=True)
class PluginKind:
    """One kind of piece that a user may bring."""

    what: str
    """What a message calls one: "objective"."""
    group: str
    """The group of its entry points: "clat.objectives"."""
    base: type | None = None
    """The class that it inherits from, where it is a class with settings."""
    built_in: tuple[type, ...] = ()
    """Those that come with clat, each with a `name`."""

    def find(self, name: str) -> Any:
        """Return the object that a name means, looking among entry points too.

        Args:
            name: "package.module:name", or the name of an entry point.

        Returns:
            The object as it was imported; None where the name is a built-in piece's, or neither a path nor an entry
            point's.

        Raises:
            ClatError: it cannot be imported.
        """
        if is_path(name):
            return self._imported(name)
        if any(getattr(one, "name", None) == name for one in self.built_in):
            return None
        found = next(iter(entry_points(group=self.group, name=name)), None)
        return None if found is None else self._imported(found.value, f" (entry point {found.value})", name)

    def find_class(self, name: str) -> type | None:
        """Return the dataclass that a name means, after a check that it is one of this kind.

        Args:
            name: as for `find`.

        Returns:
            The class, not an instance; None as for `find`.

        Raises:
            ClatError: it cannot be imported, or is none of this kind.
        """
        assert self.base is not None
        found = self.find(name)
        if found is None:
            return None
        home = f"{self.base.__module__.rpartition('.')[0]}.{self.base.__qualname__}"
        if not isinstance(found, type) or not issubclass(found, self.base):
            kind = f"the class {found.__qualname__}" if isinstance(found, type) else f"a {type(found).__name__}"
            raise ClatError(f"{self.what} '{name}' is {kind}, expected a class that inherits from {home}")
        if "__dataclass_params__" not in vars(found):
            raise ClatError(
                f"{self.what} '{name}' is no dataclass: write @dataclass(frozen=True, kw_only=True) above the class"
            )
        own: Any = found
        if [one.type for one in fields(own) if one.name == "name"] not in ([str], ["str"]):
            raise ClatError(f"{self.what} '{name}': its field `name` has to be a text: name: str = \"mine\"")
        return found

    def read(self, value: Any, check: Callable[[Any], Any]) -> Any:
        """Validate a table whose `name` is a plugin's by its class: pydantic's wrap validator of a union.

        Args:
            value: the table, or an instance of `base`, which is taken as it is.
            check: validates anything else: the union's own validator.

        Returns:
            The validated settings.

        Raises:
            ClatError: the plugin cannot be imported, or is none of this kind.
        """
        if self.base is not None and isinstance(value, self.base):
            return value
        name = value.get("name") if isinstance(value, Mapping) else None
        own = self.find_class(name) if isinstance(name, str) else None
        return check(value) if own is None else _adapter(own).validate_python(value)

    def write(self, value: Any, dump: Callable[[Any], Any], info: Any) -> Any:
        """Return a plugin's settings as its own class writes them: pydantic's wrap serializer.

        Args:
            value: the settings.
            dump: writes a built-in piece: the union's own serializer.
            info: pydantic's settings of the serialization.

        Returns:
            The settings as plain data.
        """
        if type(value) in self.built_in or not is_dataclass(value):
            return dump(value)
        return _adapter(type(value)).dump_python(
            value, mode=info.mode, by_alias=info.by_alias, exclude_none=info.exclude_none
        )

    def _imported(self, path: str, origin: str = "", name: str | None = None) -> Any:
        with current_directory_importable():
            return find_object(path, f"{self.what} '{name or path}'{origin}")


def called_with(function: Callable[..., Any], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Check that a function takes the keywords that were asked for.

    Args:
        function: of the user's own.
        given: keyword -> value, None where it was not asked for.
        what: how a message calls the function.

    Returns:
        Keyword -> value, to call the function with.

    Raises:
        ClatError: it does not take one of them.
    """
    asked = {key: value for key, value in given.items() if value is not None}
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return asked
    for key in asked.keys() - parameters.keys():
        raise unknown("argument", key, parameters, where=f" of {what}")
    return asked


def _adapter(own: type) -> Any:
    """Return the checker of a plugin's settings, which refuses what the built-in ones' refuses."""
    from pydantic import ConfigDict, TypeAdapter

    if "__pydantic_config__" not in vars(own):
        own.__pydantic_config__ = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    return TypeAdapter(own)
