"""An image set where a notebook displays it: what it is, and some of its images."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import torch

from clat.core.formatting import counted
from clat.data.pictures import data_uri

if TYPE_CHECKING:
    from clat.data.imageset import ImageSet

SHOWN = 10
"""Images that are shown."""
SIDE = 64
"""Pixels of an image's longer side on the page."""


def image_set_html(images: ImageSet) -> str:
    """Return a line and some images with their classes as HTML.

    Args:
        images: any set; of one that is not in memory only these images are read.

    Returns:
        HTML.
    """
    channels, height, width = images.shape
    some = images.sample(SHOWN)
    pixels = some.pixels()
    named = zip(pixels, some.labels.tolist(), strict=True)
    pictures = "".join(_figure(image, images.class_names[label]) for image, label in named)
    about = (
        f"{counted(f'{len(images):,}', 'image')} of {width} x {height} pixels, {counted(channels, 'channel')}, "
        f"{images.num_classes} classes"
    )
    title = f"<b>{escape(images.name)}/{escape(images.split)}</b>: {about}"
    notes = "".join(f"<br><small>{escape(note)}</small>" for note in images.notes)
    return f"<p>{title}{notes}</p><div>{pictures}</div>"


def _figure(image: torch.Tensor, name: str) -> str:
    """Return one image with its class below, small ones enlarged pixel by pixel."""
    source = data_uri(image, 2 * SIDE)
    style = "display:inline-block;margin:0 6px 6px 0;text-align:center;font-size:11px;vertical-align:top"
    scaled = f"height:{SIDE}px;image-rendering:{'pixelated' if max(image.shape[1:]) < SIDE else 'auto'}"
    return f'<div style="{style}"><img src="{source}" alt="" style="{scaled}"><br>{escape(name)}</div>'
