"""The generators of random numbers that a data set or a transform of the user's own holds, however deep."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from clat.core.own_code import is_users
from clat.core.random_states import is_generator

_MOST_ITEMS = 1000
"""Longer lists are the data themselves, not settings of a transform."""
_MOST_OBJECTS = 20_000
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, torch.Tensor, np.ndarray)
_TYPED = ("<string>", "<stdin>", "<ipython-input", "<python-input")
"""What code is called that was typed into an interpreter."""


def held_generators(source: Any) -> list[Any]:
    """Find the generators that an object holds: in attributes, containers, closures and names of modules.

    The global ones of torch, `random` and NumPy are not among them. Nothing of the user's is run but descriptors of
    slots: containers of other kinds than Python's own, such as open files, are not read.

    Args:
        source: a data set, or a callable.

    Returns:
        The generators, each once, always in the same order, the nearest first.
    """
    globals_ = [torch.default_generator, np.random.mtrand._rand, getattr(random, "_inst", None)]
    seen = {id(each) for each in globals_}
    found, waiting = [], deque([source])
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_generator(value):
            found.append(value)
            continue
        try:
            held = list(_held(value, seen))
        except Exception:  # an object that is not what it seems
            continue
        waiting.extend(each for each in held if not isinstance(each, _LEAVES))
    return found


def _held(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what an object holds, and once what its class does."""
    if isinstance(value, dict | MappingProxyType):
        yield from value.values() if len(value) <= _MOST_ITEMS else ()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value if len(value) <= _MOST_ITEMS else ()
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType | staticmethod | classmethod):
        yield from (getattr(value, "__self__", None), value.__func__)
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    else:
        yield from list(getattr(value, "__dict__", {}).values())
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                private = slot.startswith("__") and not slot.endswith("__")
                yield getattr(value, f"_{kind.__name__.lstrip('_')}{slot}" if private else slot, None)
            if id(kind) not in seen:
                seen.add(id(kind))
                yield from _of_class(kind)


def _of_class(kind: type) -> Iterator[Any]:
    """Yield the methods of a class, and what else it holds, if it is the user's own."""
    functions = [each for each in vars(kind).values() if isinstance(each, FunctionType)]
    if any(_is_users(each.__code__) for each in functions):
        yield from list(vars(kind).values())


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
        found = function.__globals__
        yield from (found[name] for name in _names(function.__code__) if name in found)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up in its module, and so do functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_users(code: CodeType) -> bool:
    """Return whether code is the user's own: a library is not looked into."""
    return code.co_filename.startswith(_TYPED) or is_users(code.co_filename)
