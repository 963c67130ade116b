"""Random states that code of the user's draws from, seeded by place and put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from clat.core.seeds import seed_python


@contextmanager
def seeded_draws() -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds torch on the CPU, `random` and NumPy with a number of 63 bits.

    At the end all three states are what they were, so that a transform draws the same numbers wherever it runs and
    shifts nobody else's.

    Yields:
        The function; it takes one number.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (what users draw from)

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)
        seed_python(number)

    try:
        yield seed
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002
