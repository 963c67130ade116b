"""Dependence of a network's outputs on the other images of a batch.

Where there is any, accuracies are those of one batch size and one order, and an attack, whose images leave the
batch as they are done, meets another network at every step. BatchNorm without stored statistics is the usual cause.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.evaluation.predict import predict
from clat.network import modes
from clat.network.guard import floating_type

_PASSES = 8
"""Over one image, to see whether outputs are random: some networks draw but once a pass, between two values."""

RANDOM, BATCHED = "the network's outputs are random", "the network's outputs depend on the batch"
"""How the notes on outputs that are not the image's own begin."""
RANDOM_NOTE = (
    f"{RANDOM}, two passes over one image give different logits: attacks that stop at the "
    "first wrong one (all but pgd) leave accuracies too high"
)


def logits_alone(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the logits of each image given to the network by itself.

    Args:
        model: the network under evaluation; it is left as it is.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,); they only have to fit the outputs.

    Returns:
        Logits, (N, classes), exact float32, on the CPU.

    Raises:
        ClatError: the network does not run on a single image, as `clat.evaluate` needs when few are left to attack.
    """
    try:
        return predict(model, x, y, batch_size=1)
    except ClatError:
        raise
    except (RuntimeError, ValueError) as error:
        taken = next((part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d)), x.shape[1])
        if x.shape[1] != taken and "channel" in str(error):
            raise ClatError(
                f"the network takes images of {counted(taken, 'channel')}, and these have {x.shape[1]}"
            ) from error
        if not _needs_company(model, x, y):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise ClatError(
            f"the model does not run on one image alone{cause(model)}: an evaluation needs that ({reason})"
        ) from error


def _needs_company(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return True if the network runs on two images and not on one of them."""
    logits_among(model, x[:1], y[:1], 1)
    try:
        predict(model, x[:1], y[:1])
    except (RuntimeError, ValueError):
        return True
    return False


def logits_among(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Return the logits of images in batches; where these are of one image, after its negative 1 - x.

    Args:
        model: the network under evaluation; it is left as it is.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,); they only have to fit the outputs.
        batch_size: images in a forward pass.

    Returns:
        Logits, (N, classes), exact float32, on the CPU.
    """
    if min(len(x), batch_size) > 1:
        return predict(model, x, y, batch_size=batch_size)
    pairs = torch.stack([1 - x, x], 1).flatten(0, 1)
    return predict(model, pairs, y.repeat_interleave(2), batch_size=2)[1::2]


def differing(model: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    """Return which images' logits differ by more than rounding in the network's precision does.

    Args:
        model: the network whose weights' type sets the tolerance.
        one: logits, (N, classes).
        other: logits of the same images, (N, classes).

    Returns:
        One flag an image, (N,) bool, on the CPU.
    """
    one, other = one.float().cpu(), other.float().cpu()
    scale = (one - one.mean(1, keepdim=True)).abs().amax(1)
    # Sums in another order, as of another batch size, differ by a millionth or so.
    tolerance = max(1e-4, 8 * torch.finfo(floating_type(model) or torch.float32).eps)
    return (one - other).abs().amax(1) > tolerance * scale


def is_random(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return whether passes over the first image give different logits.

    Args:
        model: the network under evaluation; it is left as it is.
        x: images in [0, 1], (N, C, H, W), at least one.
        y: their labels, (N,).

    Returns:
        True if they do, as with noise or dropout that stays on in evaluation mode.
    """
    again = [0] * _PASSES
    logits = logits_alone(model, x[again], y[again])
    return bool(differing(model, logits[:1].expand_as(logits), logits).any())


def first_and_last(count: int, batch_size: int) -> list[int]:
    """Return the numbers of the first batch's first and last image, which are looked at for a dependence on others.

    One of them alone may be what the others are measured by, the largest say, or stand where nothing is added.

    Args:
        count: images of the whole evaluation, at least one.
        batch_size: images in a forward pass.

    Returns:
        Two numbers, or 0 alone where the batch is one image.
    """
    return sorted({0, min(count, batch_size) - 1})


def batch_notes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    alone: Tensor,
    among: Tensor,
    *,
    random: bool,
) -> list[str]:
    """Return what an evaluation has to say of a network whose outputs are not the image's own.

    Args:
        model: the network under evaluation; it is left as it is.
        x: images in [0, 1], (N, C, H, W), of which `first_and_last` names those that are looked at.
        y: their labels, (N,).
        batch_size: images that the evaluation attacks at a time.
        alone: the logits of these by themselves, (1 or 2, classes).
        among: theirs within the first batch.
        random: whether outputs are random. The logits do not tell: both passes begin with the same random state, so
            that two images may get the same draws in either.

    Returns:
        One line, or none.
    """
    if random:
        return [RANDOM_NOTE]
    ends, first = first_and_last(len(x), batch_size), slice(batch_size)
    if len(ends) == 1:
        among = logits_among(model, x[first], y[first], batch_size)[ends]
    if not differing(model, alone, among).any():
        return []
    return [
        f"{BATCHED}{cause(model)}, an image alone gets other logits than among "
        f"others: these numbers are of batches of {batch_size} alone"
    ]


def varying_outputs(notes: Iterable[str]) -> bool:
    """Return whether an evaluation found outputs that are not the image's own.

    Args:
        notes: those of the result.

    Returns:
        True where they are random, or depend on the batch.
    """
    return any(note.startswith((RANDOM, BATCHED)) for note in notes)


def cause(model: nn.Module) -> str:
    """Return the usual cause of a dependence on the batch, if the network has it.

    Args:
        model: the network whose layers are looked at.

    Returns:
        Text in brackets with a space before it; "" where BatchNorm is not the cause.
    """
    unstored = any(bn.running_mean is None for bn in modes.batch_norms(model))
    return " (BatchNorm without stored statistics)" if unstored else ""
