"""The user's own networks: `package.module:factory`, imported from the current directory too."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from torch import nn

from clat.core.errors import ClatError, unknown
from clat.core.plugins import current_directory_importable


def from_factory(name: str, options: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of `package.module:factory` with those of `options` that its signature has, and `args`.

    What goes wrong in the user's code is told in one line, and chained. Raises ClatError for that, for a name that
    cannot be imported or called, and for an explicit option (anything but num_classes and in_channels, which are
    always there) or argument that the signature does not have.
    """
    with current_directory_importable():
        factory = _find(name)
        accepted = _accepted(name, factory, options, args or {})
        try:
            model = factory(**accepted)
        except Exception as error:
            raise ClatError(f"model '{name}': the factory failed, {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ClatError(f"model '{name}': the factory gave a {type(model).__name__}; it must return an nn.Module")
    return model


def _find(name: str) -> Callable[..., Any]:
    """The object that `package.module:factory` names; dots after the colon reach into classes."""
    module_name, _, path = name.partition(":")
    try:
        factory = reduce(getattr, path.split("."), importlib.import_module(module_name))
    except AttributeError as error:
        raise ClatError(f"model '{name}': {error}; check the name after the colon") from error
    except Exception as error:
        raise ClatError(
            f"model '{name}': importing '{module_name}' failed, {type(error).__name__}: {error}; "
            "write package.module:factory"
        ) from error
    if not callable(factory):
        raise ClatError(f"model '{name}': a {type(factory).__name__} cannot be called; name a function or a class")
    return factory


def _accepted(
    name: str, factory: Callable[..., Any], options: Mapping[str, Any], args: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that the factory's signature has, and the arguments. A bare **kwargs gets num_classes, the usual
    name, and every argument."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # built-in callables show no signature
        return dict(args)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        by_name |= {"num_classes", *args}
    for argument in args.keys() - by_name:
        raise unknown("argument", argument, by_name, where=f" of model '{name}'")
    for option in options.keys() - by_name - {"num_classes", "in_channels"}:
        raise ClatError(f"model '{name}': its factory takes no {option}; leave {option} out")
    return {key: value for key, value in options.items() if key in by_name} | dict(args)
