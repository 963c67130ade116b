"""Build the user's own networks: `package.module:factory`, imported from the current directory too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from clat.core.errors import ClatError, unknown
from clat.core.own_code import current_directory_importable, find_callable


def from_factory(name: str, options: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the network of a factory of the user's, called with the options that its signature has.

    Args:
        name: `package.module:factory`, a function or class; dots after the colon reach into classes.
        options: num_classes and in_channels, which go to a signature that has them, and the options that a user
            gave, which it must have.
        args: Further arguments that it must have; a bare **kwargs takes them all, and num_classes.

    Returns:
        Whatever network the factory made.

    Raises:
        ClatError: The name cannot be imported or called, the signature lacks an option or argument, or the factory
            fails or makes no network; the user's own error is chained.
    """
    with current_directory_importable():
        factory = find_callable(name, "model")
        accepted = _accepted(name, factory, options, args or {})
        try:
            model = factory(**accepted)
        except Exception as error:
            raise ClatError(f"model '{name}': the factory failed, {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ClatError(f"model '{name}': the factory gave a {type(model).__name__}; it must return an nn.Module")
    return model


def _accepted(
    name: str, factory: Callable[..., Any], options: Mapping[str, Any], args: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options that the factory's signature has, and the arguments.

    A bare **kwargs gets num_classes, the usual name, and every argument.
    """
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
