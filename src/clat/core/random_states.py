"""The global random states that code of the user's draws from: read, to be compared, and put back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
