"""Images as text for a page: a data URI each."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

LARGEST_PNG = 96
"""Pixels of the longer side up to which an image is kept exactly; a larger one becomes a JPEG."""
LARGEST = 320
"""Pixels of the longer side to which larger images are shrunk."""


def data_uri(image: Tensor) -> str:
    """Return an image as a data URI: PNG, or JPEG for a large one.

    Args:
        image: (C, H, W) float in [0, 1] with 1 or 3 channels; of any other number the first is shown.

    Returns:
        "data:image/...;base64,...".
    """
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    shown = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    picture, kind = Image.fromarray(shown), "png"
    if max(picture.size) > LARGEST_PNG:
        kind = "jpeg"
        picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
