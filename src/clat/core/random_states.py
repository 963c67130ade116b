"""The random states that code of the user's draws from, global ones and those of generators: read, and put back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def is_generator(value: object) -> bool:
    """Return whether an object is a generator of random numbers whose state can be read and put back.

    Args:
        value: anything.

    Returns:
        True for those of torch, NumPy and Python; False for Python's that asks the operating system.
    """
    return isinstance(value, _GENERATORS) and not isinstance(value, random.SystemRandom)


def generator_state(generator: Any) -> Any:
    """Return the state of a generator.

    Args:
        generator: one that `is_generator` accepts.

    Returns:
        The state, which can be pickled.
    """
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return (
        generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else generator.getstate()
    )


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a generator's state back.

    Args:
        generator: the one that it is of.
        state: what `generator_state` returned.
    """
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def seed_generator(generator: Any, seed: int) -> None:
    """Seed a generator.

    Args:
        generator: one that `is_generator` accepts.
        seed: a number of 63 bits.
    """
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, np.random.RandomState):  # `seed` knows one kind of bits alone
        generator.set_state(dict(type(generator._bit_generator)(seed).state))
    else:
        generator.seed(seed)


def global_states() -> tuple[bytes, ...]:
    """Return the states of Python, of NumPy and of torch on the CPU, which differ once anything has been drawn.

    Returns:
        The states, to be compared.
    """
    python = pickle.dumps((random.getstate(), np.random.get_state(legacy=False)))  # noqa: NPY002
    return python, torch.get_rng_state().numpy().tobytes()


@contextmanager
def preserve_all_states() -> Iterator[None]:
    """Keep the global random states of Python, NumPy and torch as they are, on the CPU and on every GPU in use."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with preserve_python_states(), torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def preserve_python_states() -> Iterator[None]:
    """Keep the global random states of Python and NumPy as they are, whatever is drawn inside."""
    states = python_states()
    try:
        yield
    finally:
        set_python_states(states)


def python_states() -> tuple[Any, Any]:
    """Return the global random states of Python and NumPy.

    Returns:
        What `set_python_states` takes.
    """
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def set_python_states(states: tuple[Any, Any]) -> None:
    """Put the global random states of Python and NumPy back.

    Args:
        states: what `python_states` returned.
    """
    python, numpy = states
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
