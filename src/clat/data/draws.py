"""Random states that code of the user's draws from, seeded by place and put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from clat.core.random_states import generator_state, preserve_python_states, seed_generator, set_generator_state
from clat.core.seeds import derive_seed, seed_python


@contextmanager
def seeded_draws(generators: Sequence[Any] = ()) -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds torch on the CPU, `random`, NumPy and some generators with a number of 63 bits.

    At the end all states are what they were, so that a transform draws the same numbers wherever it runs and
    shifts nobody else's.

    Args:
        generators: further ones, see `held_generators`. Each draws numbers of its own.

    Yields:
        The function; it takes one number.
    """
    torchs = torch.get_rng_state()
    states = [generator_state(each) for each in generators]

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)
        seed_python(number)
        for place, each in enumerate(generators):
            seed_generator(each, derive_seed("generator", number, place))

    with preserve_python_states():
        try:
            yield seed
        finally:
            torch.set_rng_state(torchs)
            for each, state in zip(generators, states, strict=True):
                set_generator_state(each, state)
