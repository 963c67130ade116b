"""Random states that code of the user's draws from, seeded by place and put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from clat.core.random_states import preserve_python_states
from clat.core.seeds import seed_python


@contextmanager
def seeded_draws() -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds torch on the CPU, `random` and NumPy with a number of 63 bits.

    At the end all three states are what they were, so that a transform draws the same numbers wherever it runs and
    shifts nobody else's.

    Yields:
        The function; it takes one number.
    """
    torchs = torch.get_rng_state()

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)
        seed_python(number)

    with preserve_python_states():
        try:
            yield seed
        finally:
            torch.set_rng_state(torchs)
