"""What a network says of images as they are: no attack, float32, in batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.network import modes
from clat.network.edge import accept
from clat.network.fingerprint import device_of
from clat.network.folding import unfolded
from clat.network.logits import check_logits
from clat.network.precision import exact_float32


def predict(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 250) -> Tensor:
    """Logits (N, classes), exact float32, on the CPU, of `x` (N, C, H, W) in [0, 1]; `y` (N,) only has to fit them.

    Leaves no trace in the model. Raises ClatError where the model returns something else, or NaN.
    """
    model, x = accept(model, x, y)
    device = device_of(model, x.device)
    parts = []
    exactly = torch.autocast(device.type, enabled=False), exact_float32(), unfolded()
    with modes.attack_mode(model), torch.no_grad(), exactly[0], exactly[1], exactly[2]:
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(images.to(device))
            check_logits(logits, labels)
            if not torch.isfinite(logits).all():
                raise ClatError("the model returns NaN or infinite logits")
            parts.append(logits.float().cpu())
    return torch.cat(parts)


def is_right(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 250) -> Tensor:
    """Which samples the model classifies as `y`: (N,) bool, on the CPU. Otherwise as `predict`."""
    return predict(model, x, y, batch_size=batch_size).argmax(1) == y.cpu()
