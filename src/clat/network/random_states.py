"""All random states that a network may draw from, its own generators among them: read, and put back."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clat.core.random_states import (
    generator_state,
    global_states,
    is_generator,
    python_states,
    seed_generator,
    set_generator_state,
    set_python_states,
)
from clat.core.seeds import derive_seed, seed_global

_PLAIN = frozenset((dict, OrderedDict, bool, int, float, str, tuple, type(None)))
"""What attributes of modules mostly are: told apart first, as this is done in every step."""


@contextmanager
def preserve_random_states(model: nn.Module) -> Iterator[None]:
    """Keep random states as they are, whatever is drawn inside: the global ones, and the network's own generators.

    Args:
        model: the network, on whose devices, beside the CPU, torch's states are kept.
    """
    rewind = rewinder(model)
    try:
        yield
    finally:
        rewind()


def rewinder(model: nn.Module) -> Callable[[], None]:
    """Return a function that puts all random states back to what they are now.

    So one pass draws again what another drew: two inputs are seen by the same function.

    Args:
        model: as for `preserve_random_states`.

    Returns:
        The function, which can be called more than once.
    """
    own = [(generator, generator_state(generator)) for generator in own_generators(model)]
    python = python_states()
    torchs, devices = torch.get_rng_state(), [(one, torch.cuda.get_rng_state(one)) for one in _cuda_devices(model)]

    def rewind() -> None:
        set_python_states(python)
        torch.set_rng_state(torchs)
        for device, state in devices:
            torch.cuda.set_rng_state(state, device)
        for generator, held in own:
            set_generator_state(generator, held)

    return rewind


def random_states(model: nn.Module) -> tuple[bytes, ...]:
    """Return the states of all that a network may draw from, which differ once anything has been drawn.

    Args:
        model: the network, on whose devices, beside the CPU, torch's states are read.

    Returns:
        The states, to be compared.
    """
    devices = (torch.cuda.get_rng_state(device).numpy().tobytes() for device in _cuda_devices(model))
    own = (pickle.dumps(generator_state(generator)) for generator in own_generators(model))
    return *global_states(), *devices, *own


def own_generators(model: nn.Module) -> list[Any]:
    """Return the generators that modules hold as attributes, of torch, NumPy or Python.

    Args:
        model: any network.

    Returns:
        The generators, each once.
    """
    held = [value for module in model.modules() for value in vars(module).values() if type(value) not in _PLAIN]
    return list({id(one): one for one in held if is_generator(one)}.values())


def seed_network(model: nn.Module, seed: int) -> None:
    """Seed all that a network may draw from in its forward pass: the global streams, and its own generators.

    Args:
        model: any network.
        seed: a number of 63 bits, as `derive_seed` returns it.
    """
    seed_global(seed)
    for number, generator in enumerate(own_generators(model)):
        seed_generator(generator, derive_seed(seed, "generator", number))


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    return sorted(devices, key=str)
