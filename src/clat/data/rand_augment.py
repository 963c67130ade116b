"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719), for a whole batch at once on its device.

Operations and strengths are those of torchvision's `RandAugment` with 31 magnitudes, their arithmetic Pillow's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clat.data import pil_geometry, pil_ops

BINS = 31
"""Magnitudes, 0 to 30."""
COLUMNS = 2
"""Uniform numbers that one operation on one image takes."""


class Operation(NamedTuple):
    """What is done to images, and how strongly at a magnitude."""

    apply: Callable[[Tensor, Tensor], Tensor]
    strength: Callable[[float, int, int], float]
    """Of the magnitude as a part of the largest one, and of the image's height and width."""
    signed: bool = False
    """Either sign, with equal probability."""


def _enhanced(adjust: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return Operation(lambda images, by: adjust(images, 1 + by), lambda part, h, w: 0.9 * part, signed=True)


def _constant(change: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(lambda images, _: change(images), lambda part, h, w: 0.0)


OPERATIONS: dict[str, Operation] = {
    "identity": _constant(torch.clone),
    "shear-x": Operation(pil_geometry.shear_x_from_corner, lambda part, h, w: 0.3 * part, signed=True),
    "shear-y": Operation(pil_geometry.shear_y_from_corner, lambda part, h, w: 0.3 * part, signed=True),
    "translate-x": Operation(
        lambda images, by: pil_geometry.translate(images, by, torch.zeros_like(by)),
        lambda part, h, w: 150 / 331 * w * part,
        signed=True,
    ),
    "translate-y": Operation(
        lambda images, by: pil_geometry.translate(images, torch.zeros_like(by), by),
        lambda part, h, w: 150 / 331 * h * part,
        signed=True,
    ),
    "rotate": Operation(pil_geometry.rotate, lambda part, h, w: 30 * part, signed=True),
    "brightness": _enhanced(pil_ops.adjust_brightness),
    "color": _enhanced(pil_ops.adjust_color),
    "contrast": _enhanced(pil_ops.adjust_contrast),
    "sharpness": _enhanced(pil_ops.adjust_sharpness),
    "posterize": Operation(pil_ops.posterize, lambda part, h, w: 8 - round(4 * part)),
    "solarize": Operation(pil_ops.solarize, lambda part, h, w: 255 * (1 - part)),
    "autocontrast": _constant(pil_ops.autocontrast),
    "equalize": _constant(pil_ops.equalize),
}


def rand_augment(images: Tensor, uniform: Tensor, magnitude: int) -> Tensor:
    """Apply operations to each image, each drawn uniformly from OPERATIONS, one after the other.

    Args:
        images: uint8, shape (N, C, H, W), C 3 or 1.
        uniform: numbers in [0, 1), float64, shape (N, COLUMNS * operations), on the CPU.
        magnitude: the strength of all of them, 0 to BINS - 1.

    Returns:
        A new tensor like `images`.
    """
    images = images.clone()
    height, width = images.shape[-2:]
    part = magnitude / (BINS - 1)
    for turn in range(uniform.shape[1] // COLUMNS):
        kinds, signs = uniform[:, COLUMNS * turn : COLUMNS * (turn + 1)].unbind(1)
        number = (kinds * len(OPERATIONS)).long()
        for place, operation in enumerate(OPERATIONS.values()):
            chosen = (number == place).nonzero().squeeze(1)
            if len(chosen):
                strength = torch.full((len(chosen),), operation.strength(part, height, width), dtype=torch.float64)
                if operation.signed:
                    strength = torch.where(signs[chosen] < 0.5, -strength, strength)
                here = chosen.to(images.device)
                images[here] = operation.apply(images[here], strength)
    return images
