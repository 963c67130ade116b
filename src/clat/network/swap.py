"""Have other tensors stand in for a network's parameters and buffers, under whichever names these are known.

`torch.func.functional_call` does not serve: where a module has two names it takes the first stand-in for the
original of the second, and leaves that in the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn


class Place(NamedTuple):
    """A place of a parameter or buffer: `module` and the `key` in its own dictionary, `held`."""

    module: nn.Module
    key: str
    held: dict[str, Tensor | None]


def places(model: nn.Module) -> dict[int, list[Place]]:
    """Return where each parameter and buffer of `model` lies.

    A tensor has several places where modules share it. A module under several names is one place.

    Args:
        model: any network.

    Returns:
        The places of each tensor by its id, each once, in the network's order.
    """
    found: dict[int, list[Place]] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for key, value in held.items():
                if value is not None:
                    found.setdefault(id(value), []).append(Place(module, key, held))  # type: ignore[arg-type]
    return found


def names_of(model: nn.Module, module: nn.Module) -> list[str]:
    """Return every name that `module` has within `model`.

    Args:
        model: a network.
        module: a part of it.

    Returns:
        The names as in `named_modules`, several where the network holds it several times.
    """
    return [name for name, other in model.named_modules(remove_duplicate=False) if other is module]


@contextmanager
def swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Have `tensors` stand in for the parameters and buffers of these names wherever the network uses them.

    Afterwards every place holds the object that it held, whatever happened inside. Gradients flow to the stand-ins.

    Args:
        model: the network; its own tensors are not written to.
        tensors: stand-ins by a name of what they replace, as in `named_parameters` and `named_buffers`.

    Raises:
        KeyError: a name that is none of the network's.
    """
    own: dict[str, Tensor] = {}
    own.update(model.named_parameters(remove_duplicate=False))
    own.update(model.named_buffers(remove_duplicate=False))
    where = places(model)
    exchanges = [(place, own[name], value) for name, value in tensors.items() for place in where[id(own[name])]]
    try:
        for place, _, value in exchanges:
            place.held[place.key] = value
        yield
    finally:
        for place, original, _ in exchanges:
            place.held[place.key] = original


def holders(model: nn.Module, tensors: Iterable[Tensor], *, without: Collection[nn.Module]) -> list[str]:
    """Return the names of modules that hold one of `tensors` as a parameter or buffer of their own.

    Args:
        model: the network whose modules are looked at.
        tensors: some of its tensors, compared by identity.
        without: modules to leave out.

    Returns:
        The names, in the network's order.
    """
    where = places(model)
    found = {place.module for tensor in tensors for place in where.get(id(tensor), ())} - set(without)
    return [name for name, module in model.named_modules() if module in found]
