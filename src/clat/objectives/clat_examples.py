"""Examples of a step of CLAT, as its attack hands them to its loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ClatExamples(NamedTuple):
    """Images that the attacks of a step found, each (N, C, H, W)."""

    feature: Tensor
    """The feature attack's example; x itself where no term reads it."""
    output: Tensor
    """The example of PGD on the output; x itself where no term reads it."""
    clean_logits: Tensor | None = None
    """The logits of x with their graph, where the clean pass is shared with the loss."""
    clean_features: tuple[Tensor, ...] = ()
    """The selected layers' features of x, with their graph, where the clean pass is shared."""
