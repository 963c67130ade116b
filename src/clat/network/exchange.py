"""Put other values into a network's tensors, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clat.network.slices import slice_like


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name: the network's own tensors, without their history.

    Args:
        model: any network.

    Returns:
        Tensors that share their memory with the network's, by the names of `named_parameters` and `named_buffers`.
    """
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same values in tensors of their own.

    Args:
        tensors: tensors by name.

    Returns:
        Copies by the same names, which share no memory with `tensors` and have no history.
    """
    return {name: value.detach().clone() for name, value in tensors.items()}


@torch.no_grad()
def put(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values` into the tensors of `own` that they name, in place.

    Args:
        own: the tensors to write to, as from `tensors_of`.
        values: new values by name, shaped like the tensors; names that it lacks are left alone.
    """
    for name, value in values.items():
        own[name].copy_(slice_like(value, own[name]))


def move_towards(average: Tensor, value: Tensor, share: float) -> None:
    """Move an average in place by a share of its distance to a value; what is no floating point takes the value.

    Args:
        average: a tensor without history.
        value: of the same shape and type.
        share: from 0 to 1.
    """
    if average.is_floating_point() or average.is_complex():
        # Equal infinities, as of an attention's mask, would become NaN.
        average.copy_(torch.where(average == value, value, torch.lerp(average, value, share)))
    else:
        average.copy_(value)


@contextmanager
def exchanged(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Have the tensors of `own` hold other values while the code inside runs.

    Afterwards all of `own` is as before, whatever else was written to it: a copy is put back, nothing is
    subtracted.

    Args:
        own: the tensors to write to, as from `tensors_of`.
        values: new values by name, shaped like the tensors; names that it lacks are left alone.
    """
    before = copied(own)
    try:
        put(own, values)
        yield
    finally:
        put(own, before)
