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


def data_uri(image: Tensor, largest: int = LARGEST) -> str:
    """Return an image as a data URI: PNG, or JPEG for a large one.

    Args:
        image: (C, H, W), uint8 or float in [0, 1], with 1 or 3 channels; of any other number the first is shown.
        largest: pixels of the longer side to which a larger image is shrunk, if it is above LARGEST_PNG.

    Returns:
        "data:image/...;base64,...".
    """
    image = image.detach().cpu()
    pixels = image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    shown = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    picture, kind = Image.fromarray(shown), "png"
    if max(picture.size) > LARGEST_PNG:
        kind = "jpeg"
        picture.thumbnail((largest, largest))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
