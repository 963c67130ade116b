"""Putting other values into a network's tensors, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name: the network's own tensors, without their history."""
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values in tensors of their own."""
    return {name: value.detach().clone() for name, value in tensors.items()}


@torch.no_grad()
def put(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Each tensor of `own` that `values` names takes that value, in place."""
    for name, value in values.items():
        own[name].copy_(value)


@contextmanager
def exchanged(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the tensors of `own` that `values` names hold those values. Afterwards all of `own` is as before,
    whatever else was written to it: the copy is put back, nothing is subtracted."""
    before = copied(own)
    try:
        put(own, values)
        yield
    finally:
        put(own, before)
