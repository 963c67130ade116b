"""Share a network's parameters out among processes by block (torch's FSDP2).

Each process keeps a slice of every parameter; a block's parameters are gathered whenever it runs, forwards or
backwards, and let go of again. All processes have to run the same blocks in the same order. What is added to
torch's own: features that are read inside a block have it gathered again for their gradient
(`clat.network.slices.gather_for_gradient`), which torch does only for what a block returns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.network.compiled import blocks


def check_shardable(model: nn.Module, x: Tensor) -> None:
    """Raise an error unless a network can be sharded by its blocks.

    Args:
        model: the network, whole; it is left as it was.
        x: an image, (1, C, H, W) in [0, 1], on which it is tried.

    Raises:
        ClatError: it has no blocks, cannot be copied, or reads a block's parameters while another runs.
    """
    from torch.distributed import fsdp

    if not hasattr(fsdp, "fully_shard"):
        raise ClatError("engine.shard needs torch 2.6 or later: leave it out, or install one")
    units = blocks(model)
    if not any(True for unit in units for _ in unit.parameters()):
        raise ClatError("engine.shard: the network has no blocks to be shared out, so each process needs it whole")
    if any(parameter.dim() == 0 for parameter in model.parameters()):
        raise ClatError("engine.shard: the network has a parameter that is a single number, which is not sliced")
    inside = {module for unit in units for module in unit.modules()}
    rest = [module for module in model.modules() if module not in inside]
    seen = {id(parameter) for module in rest for parameter in module.parameters(recurse=False)}
    for own in ({id(parameter) for parameter in unit.parameters()} for unit in units):
        if own & seen:
            raise ClatError("engine.shard: blocks of the network share a parameter: each needs its own")
        seen |= own
    _copied(model)
    try:
        with _parameters_while_running(units), torch.no_grad():
            model(x)
    except Exception as error:  # a network of anybody's, which may raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise ClatError(f"engine.shard: the network reads a block's parameters outside of it: {reason}") from error


def sharded_copy(model: nn.Module, mesh: Any) -> nn.Module:
    """Return a copy of a network that holds this process's slices; the network itself gives its parameters up.

    Args:
        model: the network, with the same values in every process.
        mesh: the processes, as `torch.distributed.device_mesh.init_device_mesh` gives them.

    Returns:
        The copy, on the mesh's device.
    """
    from torch.distributed.fsdp import fully_shard

    sliced = _copied(model)
    with torch.no_grad():
        for parameter in sliced.parameters():
            parameter.data = parameter.data.contiguous()  # torch slices no other memory layout
    for unit in blocks(sliced):
        if next(unit.parameters(), None) is not None:
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    # The outermost call holds what is in no block. At rest it is in slices, too: flags are set on those.
    fully_shard(sliced, mesh=mesh, reshard_after_forward=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
    return sliced


@torch.no_grad()
def take_back(model: nn.Module, sliced: nn.Module) -> None:
    """Give a network the parameters and buffers of its sharded copy. All processes must call it.

    Args:
        model: the network that `sharded_copy` was made of; it is whole again.
        sliced: the copy.
    """
    values = dict(sliced.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data = values[name].full_tensor()  # type: ignore[attr-defined]
    buffers = dict(sliced.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.data = buffers[name].detach()


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network's modules and buffers, with the very same parameters."""
    try:
        return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    except Exception as error:  # of networks that compute a weight before each pass, say
        raise ClatError(f"engine.shard: the network cannot be copied: {str(error).splitlines()[0][:160]}") from None


@contextmanager
def _parameters_while_running(units: list[nn.Module]) -> Iterator[None]:
    """Have parameters of each unit hold values only while it runs, which whoever reads them outside will notice."""
    handles, places = [], []

    def watch(unit: nn.Module) -> None:
        mine = [
            (module, name, parameter, nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad))
            for module in unit.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        places.extend(mine)

        def give(*call: Any) -> None:
            for module, name, parameter, _ in mine:
                module._parameters[name] = parameter

        def take(*call: Any) -> None:
            for module, name, _, nothing in mine:
                module._parameters[name] = nothing

        handles.append(unit.register_forward_pre_hook(give))
        handles.append(unit.register_forward_hook(take))
        take()

    try:
        for unit in units:
            watch(unit)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, parameter, _ in places:
            module._parameters[name] = parameter
