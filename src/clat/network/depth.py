"""Measure how deep in a network each parameter lies, for learning rates that fall from block to block."""

from __future__ import annotations

from torch import nn

from clat.network.compiled import blocks
from clat.network.trace import kind_of


def depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return each parameter's depth, counted from 1 at the input.

    Each block (a member of a Sequential or ModuleList that has parts of its own) and each layer outside of all
    blocks is one deeper than the one that the network registers before it. Everything else, such as a normalisation
    between two blocks or a position embedding, is as deep as what comes before it.

    Args:
        model: a network that registers its parts in forward order.

    Returns:
        The depth of every parameter, at least 1.
    """
    modules = dict(model.named_modules())
    inside = set(blocks(model))
    units = [name for name, module in modules.items() if module in inside]
    units += [
        name
        for name, module in modules.items()
        if kind_of(module) is not None and not any(name.startswith(f"{unit}.") for unit in units)
    ]
    order = {name: number for number, name in enumerate(modules)}
    units.sort(key=lambda name: order[name])
    found, depth = {}, 1
    for name, parameter in model.named_parameters():
        unit = next((n for n, unit in enumerate(units, start=1) if name.startswith(f"{unit}.")), None)
        depth = unit or depth
        found[parameter] = depth
    return found
