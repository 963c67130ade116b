"""Check that a network returns what it has to: a logit for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from clat.core.errors import ClatError

SINGLE = "of a single logit z return torch.stack([-z / 2, z / 2], 1), z of shape (N,): the logits of both classes"
"""What to do with a network that gives one number an image."""


def check_logits(logits: object, y: Tensor) -> None:
    """Raise an error unless a model's output is logits with a class for every label.

    Args:
        logits: what the model returned for a batch, to be (N, classes).
        y: the labels of the batch, (N,) int64.

    Raises:
        ClatError: it is anything else; the message says how to mend it.
    """
    check_output(logits, len(y), y)


def check_output(logits: object, count: int, labels: Tensor | None = None) -> None:
    """Raise an error unless what a model returns for images is logits of at least two classes.

    Args:
        logits: what it returned, to be (count, classes).
        count: how many images it was given.
        labels: int64 of any shape; the model must have a class for each.

    Raises:
        ClatError: it is anything else; the message says how to mend it.
    """
    unfit = "the model does not return logits of shape (N, classes)"
    if not isinstance(logits, Tensor):
        raise ClatError(f"{unfit} but a {type(logits).__name__}: wrap it so that it does")
    kind = _unfit_kind(logits)
    if kind is not None:
        raise ClatError(f"{unfit} as plain floating-point numbers but {kind}: wrap it so that it does")
    if logits.shape == (count,) and logits.is_floating_point():
        raise ClatError(f"{unfit} but one number an image: {SINGLE}")
    if logits.dim() != 2 or len(logits) != count:
        raise ClatError(f"{unfit} but {tuple(logits.shape)} for {count} images: wrap it so that it does")
    highest = int(labels.max()) if labels is not None and labels.numel() else 0
    if logits.shape[1] == 1:
        start = f"a label is {highest}, but the model has 1 classes" if highest else "the model has 1 class"
        raise ClatError(f"{start}: {SINGLE}")
    if highest >= logits.shape[1]:
        raise ClatError(f"a label is {highest}, but the model has {logits.shape[1]} classes")


def _unfit_kind(output: Tensor) -> str | None:
    """Return what kind of tensor it is that no loss takes, None for one of plain floating-point numbers."""
    if output.layout is not torch.strided:
        return "a sparse tensor"
    if output.is_meta:
        return "a tensor without values, on the device 'meta'"
    if not output.is_floating_point():
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    return None
