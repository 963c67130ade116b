"""The generators of random numbers that a data set or a transform of the user's own holds, however deep."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from clat.core.own_code import is_users
from clat.core.random_states import is_generator

_MOST_ITEMS = 1000
"""Longer lists are the data themselves, not settings of a transform."""
_MOST_OBJECTS = 20_000
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, torch.Tensor, np.ndarray)


def held_generators(source: Any) -> list[Any]:
    """Find the generators that an object holds: in attributes, containers, closures and names of modules.

    The global ones of torch, `random` and NumPy are not among them.

    Args:
        source: a data set, or a callable.

    Returns:
        The generators, each once, always in the same order.
    """
    globals_ = [torch.default_generator, np.random.mtrand._rand, getattr(random, "_inst", None)]
    seen = {id(each) for each in globals_}
    found, waiting = [], [source]
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if is_generator(value):
            found.append(value)
        else:
            waiting.extend(_held(value))
    return found


def _held(value: Any) -> Iterator[Any]:
    """Yield what an object holds."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if len(value) <= _MOST_ITEMS:
            yield from value.values() if isinstance(value, Mapping) else value
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    else:
        yield from list(getattr(value, "__dict__", {}).values())
        slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
        names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
        yield from (getattr(value, name) for name in names if name.isidentifier() and hasattr(value, name))
        for each in (each for kind in type(value).__mro__ for each in vars(kind).values()):
            if is_generator(each) or (isinstance(each, FunctionType) and _is_users(each.__code__)):
                yield each


def _of_function(function: FunctionType) -> Iterator[Any]:
    """Yield what a function finds without being given it; of an installed one, what it was made with alone."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if _is_users(function.__code__):
        yield from (
            function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__
        )


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up in its module, and so do functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_users(code: CodeType) -> bool:
    """Return whether code is the user's own, typed into an interpreter too: a library is not looked into."""
    return code.co_filename in ("<string>", "<stdin>") or is_users(code.co_filename)
