"""Colour jitter, for a whole batch at once on its device, with Pillow's arithmetic (`pil_ops`)."""

from __future__ import annotations

from torch import Tensor

from clat.data import pil_ops

COLUMNS = 8
"""Uniform numbers that one image takes: four strengths, four for the order."""
_OPERATIONS = (pil_ops.adjust_brightness, pil_ops.adjust_contrast, pil_ops.adjust_color, pil_ops.adjust_hue)


def jitter_colours(images: Tensor, uniform: Tensor, amounts: tuple[float, float, float, float]) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image in an order of its own.

    The factor of the first three is uniform in [1 - amount, 1 + amount], but not below 0, as torchvision's
    `ColorJitter` has it; the hue is turned by up to `amount` of the circle either way.

    Args:
        images: uint8, shape (N, C, H, W), C 3 or 1.
        uniform: numbers in [0, 1), float64, shape (N, COLUMNS), on the CPU.
        amounts: of brightness, contrast, saturation and hue; 0 leaves one out.

    Returns:
        A new tensor like `images`.
    """
    order = uniform[:, 4:].argsort(dim=1)
    images = images.clone()
    for turn in range(4):
        for number, (operation, amount) in enumerate(zip(_OPERATIONS, amounts, strict=True)):
            chosen = (order[:, turn] == number).nonzero().squeeze(1)
            if amount and len(chosen):
                low = -amount if operation is pil_ops.adjust_hue else max(1 - amount, 0.0)
                high = amount if operation is pil_ops.adjust_hue else 1 + amount
                strength = low + (high - low) * uniform[chosen, number]
                here = chosen.to(images.device)
                images[here] = operation(images[here], strength)
    return images


def check_amounts(amounts: tuple[float, float, float, float]) -> str | None:
    """Return what is wrong with the amounts of `jitter_colours`.

    Args:
        amounts: of brightness, contrast, saturation and hue.

    Returns:
        What was expected instead; None if nothing is wrong.
    """
    if min(amounts) < 0:
        return "amounts of 0 or more"
    return "a hue of at most 0.5, half the circle" if amounts[3] > 0.5 else None
