"""Differentiate values that may not depend on what they are differentiated by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clat.network.folding import readers_known


def gradients_by(value: Tensor, tensors: Sequence[Tensor], *, again: bool = False) -> list[Tensor | None]:
    """Return d value / d tensor for each of `tensors`.

    Args:
        value: a scalar.
        tensors: what to differentiate by.
        again: whether the graph stays for another backward pass.

    Returns:
        The gradients, shaped like the tensors; None for one that the value does not depend on, which is all of them
        where a network leaves a layer out by chance, and nothing else of it moves.
    """
    if not value.requires_grad:
        return [None] * len(tensors)
    readers_known(value)
    return list(torch.autograd.grad(value, tensors, retain_graph=again, allow_unused=True))
