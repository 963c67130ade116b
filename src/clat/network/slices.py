"""Tensors of which each process holds a slice, and networks made of them (see `clat.network.sharded`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Return whether a network, or a block of one, holds slices of its parameters.

    Args:
        model: any network.

    Returns:
        True where `sharded_copy` made it.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # which takes long to import where nobody has asked for it
    return isinstance(model, getattr(fsdp, "FSDPModule", ()))


def is_slice(value: object) -> bool:
    """Return whether a tensor is one process's slice of a tensor that all hold together.

    Args:
        value: anything.

    Returns:
        True for torch's `DTensor`.
    """
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def own_slice(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor.

    Args:
        tensor: any tensor.

    Returns:
        Its slice, which shares the memory; the tensor itself where it is whole.
    """
    return tensor.to_local() if is_slice(tensor) else tensor  # type: ignore[attr-defined]


def slice_like(value: Tensor, own: object) -> Tensor:
    """Return a whole tensor as slices, where the one whose place it takes is sliced.

    Args:
        value: the same in every process; or a slice already.
        own: the tensor whose place it takes.

    Returns:
        `value`, or this process's slice of it.
    """
    if not is_slice(own) or is_slice(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    placed = value.to(own.device)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)  # no messages


def whole(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Return tensors with their slices put together on the CPU. All processes must call it.

    Args:
        tensors: by name, in the same order in every process.
        keep: this process wants them; it gets its slices otherwise, and holds one whole tensor at a time.

    Returns:
        By the same names; what is no slice is as it was.
    """
    found = {}
    for name, value in tensors.items():
        full = value.detach().full_tensor().cpu() if is_slice(value) else value  # type: ignore[attr-defined]
        found[name] = full if keep else value
    return found


def gather_for_gradient(model: nn.Module, feature: Tensor) -> None:
    """Have the blocks that are running gathered again when the gradient of a feature comes back to them.

    Args:
        model: the network, in the midst of a forward pass; nothing happens unless it is sharded.
        feature: a tensor that this pass has computed.
    """
    if not is_sharded(model) or not feature.requires_grad:
        return
    units: list[Any] = [module for module in model.modules() if is_sharded(module)]
    running = [unit for unit in units if unit is model or not is_slice(next(unit.parameters(), None))]

    def gather(gradient: Tensor) -> None:
        for unit in running:
            unit.unshard()

    feature.register_hook(gather)
