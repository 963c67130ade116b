"""A perturbation as a picture."""

from __future__ import annotations

from torch import Tensor


def amplified(change: Tensor) -> tuple[Tensor, float]:
    """Return a perturbation as an image, grey where nothing changes, and how many times it was amplified.

    Args:
        change: (C, H, W), example less image.

    Returns:
        (C, H, W) in [0, 1] that uses its whole range, and the factor; 0 where nothing changes at all.
    """
    largest = float(change.abs().max())
    factor = 0.5 / largest if largest else 0.0
    return 0.5 + factor * change, factor
