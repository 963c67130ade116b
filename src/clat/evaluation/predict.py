"""Predictions on images as they are: no attack, float32, in batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat.attacks.search import at_a_time
from clat.core.errors import ClatError
from clat.network import modes
from clat.network.edge import accept
from clat.network.fingerprint import device_of
from clat.network.folding import unfolded
from clat.network.logits import check_logits
from clat.network.precision import exact_float32


def predict(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 250) -> Tensor:
    """Return the logits of images, in exact float32. The model is left without a trace.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits, in any mode.
        x: images in [0, 1], (N, C, H, W).
        y: labels, (N,) int64; they only have to fit the outputs.
        batch_size: images in a forward pass, at most (`clat.attacks.search.at_a_time`).

    Returns:
        Logits, (N, classes), float32, on the CPU.

    Raises:
        ClatError: the model returns something else, or NaN; the images or labels are none.
    """
    model, x = accept(model, x, y)
    device = device_of(model, x.device)
    parts = []
    size = at_a_time(batch_size, x.shape[1:], device)
    exactly = torch.autocast(device.type, enabled=False), exact_float32(), unfolded()
    with modes.attack_mode(model), torch.no_grad(), exactly[0], exactly[1], exactly[2]:
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            logits = model(images.to(device))
            check_logits(logits, labels)
            if not torch.isfinite(logits).all():
                raise ClatError("the model returns NaN or infinite logits")
            parts.append(logits.float().cpu())
    return torch.cat(parts)


def is_right(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 250) -> Tensor:
    """Return which images the model classifies as labelled. The model is left without a trace.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits, in any mode.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        batch_size: images in a forward pass, at most (`clat.attacks.search.at_a_time`).

    Returns:
        One flag an image, (N,) bool, on the CPU.

    Raises:
        ClatError: as `predict` does.
    """
    return predict(model, x, y, batch_size=batch_size).argmax(1) == y.cpu()
