"""All random states that a network may draw from, its own generators among them: read, and put back."""

from __future__ import annotations

import pickle
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from clat.core.random_states import global_states, preserve_python_states

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = frozenset((dict, OrderedDict, bool, int, float, str, tuple, type(None)))
"""What attributes of modules mostly are: told apart first, as this is done in every step."""


@contextmanager
def preserve_random_states(model: nn.Module) -> Iterator[None]:
    """Keep random states as they are, whatever is drawn inside: the global ones, and the network's own generators.

    Args:
        model: the network, on whose devices, beside the CPU, torch's states are kept.
    """
    own = [(generator, _state(generator)) for generator in own_generators(model)]
    with preserve_python_states(), torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            for generator, state in own:
                _set_state(generator, state)


def random_states(model: nn.Module) -> tuple[bytes, ...]:
    """Return the states of all that a network may draw from, which differ once anything has been drawn.

    Args:
        model: the network, on whose devices, beside the CPU, torch's states are read.

    Returns:
        The states, to be compared.
    """
    devices = (torch.cuda.get_rng_state(device).numpy().tobytes() for device in _cuda_devices(model))
    own = (pickle.dumps(_state(generator)) for generator in own_generators(model))
    return *global_states(), *devices, *own


def own_generators(model: nn.Module) -> list[Any]:
    """Return the generators that modules hold as attributes, of torch, NumPy or Python.

    Args:
        model: any network.

    Returns:
        The generators, each once.
    """
    held = [value for module in model.modules() for value in vars(module).values() if type(value) not in _PLAIN]
    return list({id(one): one for one in held if isinstance(one, _GENERATORS)}.values())


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return (
        generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else generator.getstate()
    )


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    return sorted(devices, key=str)
