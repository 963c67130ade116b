"""Check that a network returns what it has to: a logit for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from clat.core.errors import ClatError

SINGLE = "of a single logit z return torch.stack([-z / 2, z / 2], 1), z of shape (N,): the logits of both classes"
"""What to do with a network that gives one number an image."""

SQUASHED_NOTE = (
    "the network's outputs look like probabilities, all of them in [0, 1]: attacks on these find less, so that it "
    "may seem more robust than it is; let it return logits"
)
_COARSE = (torch.bfloat16, torch.float16)
_TELLING = 20
"""So many outputs of either sign lie in [0, 1] by chance in one case of a million."""


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


def are_probabilities(outputs: Tensor) -> bool:
    """Return whether a network's outputs are those of a softmax: at least 0, with a sum of 1 for each image.

    Args:
        outputs: what it returned for a batch, (N, classes).

    Returns:
        True where they are, up to the rounding of the type that holds them all, which may be another than theirs:
        a softmax in bfloat16 misses a sum of 1 by more than one in float32.
    """
    held = next((kind for kind in _COARSE if torch.equal(outputs.to(kind).to(outputs.dtype), outputs)), None)
    tolerance = 1e-3 if held is None else max(1e-3, 2 * torch.finfo(held).eps)
    return bool((outputs >= 0).all()) and bool(((outputs.double().sum(1) - 1).abs() < tolerance).all())


def look_squashed(outputs: Tensor) -> bool:
    """Return whether a network's outputs look as if a sigmoid had made them: all in [0, 1], and enough to tell.

    Args:
        outputs: what it returned for a batch, (N, classes).

    Returns:
        True where they do. A few logits may lie there by chance.
    """
    return outputs.numel() >= _TELLING and bool(within_unit(outputs).all())


def within_unit(outputs: Tensor) -> Tensor:
    """Return for which images all outputs lie in [0, 1], as those of a sigmoid do.

    Args:
        outputs: what a network returned, (N, classes).

    Returns:
        One flag an image, (N,) bool. That logits do so for a whole batch is rare, but may be.
    """
    return ((outputs >= 0) & (outputs <= 1)).all(1)


def _unfit_kind(output: Tensor) -> str | None:
    """Return what kind of tensor it is that no loss takes, None for one of plain floating-point numbers."""
    if output.layout is not torch.strided:
        return "a sparse tensor"
    if output.is_meta:
        return "a tensor without values, on the device 'meta'"
    if not output.is_floating_point():
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    return None
