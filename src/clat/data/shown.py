"""An image set where a notebook displays it: what it is, and its first images."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import torch
from PIL import Image

if TYPE_CHECKING:
    from clat.data.imageset import ImageSet

FIRST = 10
"""Images that are shown."""
SIDE = 64
"""Pixels of an image's longer side on the page."""


def image_set_html(images: ImageSet) -> str:
    """Return a line and the first images with their classes as HTML.

    Args:
        images: any set; of one that is not in memory only the first images are read.

    Returns:
        HTML.
    """
    channels, height, width = images.shape
    some = images.take(min(FIRST, len(images)))
    pixels = some.pixels()
    named = zip(pixels, some.labels.tolist(), strict=True)
    pictures = "".join(_figure(image, images.class_names[label]) for image, label in named)
    about = (
        f"{len(images):,} images of {width} x {height} pixels, {channels} channels, {images.num_classes} classes"
    )
    title = f"<b>{escape(images.name)}/{escape(images.split)}</b>: {about}"
    notes = "".join(f"<br><small>{escape(note)}</small>" for note in images.notes)
    return f"<p>{title}{notes}</p><div>{pictures}</div>"


def _figure(image: torch.Tensor, name: str) -> str:
    """Return one image with its class below, small ones enlarged pixel by pixel."""
    exact = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    shown = exact if len(exact) == 3 else exact[:1].expand(3, -1, -1)  # of other channels the first
    picture = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    style = "display:inline-block;margin:0 6px 6px 0;text-align:center;font-size:11px;vertical-align:top"
    scaled = f"height:{SIDE}px;image-rendering:{'pixelated' if max(picture.size) < SIDE else 'auto'}"
    return f'<div style="{style}"><img src="{source}" alt="" style="{scaled}"><br>{escape(name)}</div>'
