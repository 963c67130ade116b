"""What APGD climbs, in any norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.ascent import input_gradient
from clat.network.logits import check_logits

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, K), y (N,), target (N,)) -> the value to increase, (N,)."""

APGD_LOSSES: dict[str, Loss] = {
    "ce": lambda logits, y, target: losses.cross_entropy(logits, y),
    "dlr": lambda logits, y, target: losses.dlr(logits, y),
    "dlr-targeted": losses.targeted_dlr,
    "margin-targeted": losses.targeted_margin,
}


def climb(model: nn.Module, point: Tensor, y: Tensor, target: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value of a loss at each point, its gradient, and which points are misclassified.

    A loss that is NaN counts as misclassified, so that its example comes back and is seen to be broken.

    Args:
        model: images -> logits (N, K).
        point: (N, C, H, W).
        y: the labels, (N,) int64.
        target: the class that a targeted loss aims at, (N,) int64.
        loss: a key of APGD_LOSSES.

    Returns:
        (N,) float32 (float64 where the model is), the gradient of `point`'s shape, (N,) bool.
    """
    variable = point.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(variable)
        check_logits(logits, y)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        value = APGD_LOSSES[loss](logits, y, target)
        gradient = input_gradient(value.sum(), variable)
    value = value.detach()
    return value, gradient, (logits.detach().argmax(1) != y) | value.isnan()
