"""Random resized crops (Szegedy et al. 2015, arXiv:1409.4842), for a whole batch at once on its device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRIES = 10
"""Attempts at a window that lies in the image, as in torchvision."""
COLUMNS = 2 * TRIES + 2
"""Uniform numbers that the window of one image takes."""


def draw_windows(
    uniform: Tensor, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Return a window for each image: its area uniform, its width over its height log-uniform, its place uniform.

    The first of TRIES that is no larger than the image is taken; if none is, the largest window about the centre
    whose ratio is allowed.

    Args:
        uniform: numbers in [0, 1), float64, shape (N, COLUMNS).
        height: of the images, in pixels.
        width: of the images, in pixels.
        area: the smallest and the largest, as fractions of the image.
        ratio: the smallest and the largest.

    Returns:
        int64, shape (N, 4): top, left, height, width.
    """
    areas, ratios, place = uniform.split([TRIES, TRIES, 2], dim=1)
    areas = (area[0] + (area[1] - area[0]) * areas) * height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = (low + (high - low) * ratios).exp()
    wide, tall = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = fits.long().argmax(1, keepdim=True)
    found = fits.any(1)
    central_width = min(width, round(height * ratio[1]))
    central_height = min(height, round(width / ratio[0]))
    tall = torch.where(found, tall.gather(1, first).squeeze(1), central_height)
    wide = torch.where(found, wide.gather(1, first).squeeze(1), central_width)
    top = torch.where(found, (place[:, 0] * (height - tall + 1)).floor(), (height - tall) // 2)
    left = torch.where(found, (place[:, 1] * (width - wide + 1)).floor(), (width - wide) // 2)
    return torch.stack([top, left, tall, wide], dim=1).long()


def crop_and_resize(images: Tensor, windows: Tensor) -> Tensor:
    """Enlarge a window of each image to the image's size, by bilinear interpolation within the window.

    A window is no larger than the image, so that there is nothing to antialias.

    Args:
        images: uint8, shape (N, C, H, W).
        windows: as `draw_windows` returns them, on any device.

    Returns:
        uint8, shape (N, C, H, W), rounded to the nearest.
    """
    top, left, tall, wide = windows.to(images.device).unbind(1)
    levels = _stretched(_stretched(images.float(), left, wide, 3), top, tall, 2)
    return levels.round_().to(torch.uint8)


def _stretched(images: Tensor, start: Tensor, length: Tensor, dim: int) -> Tensor:
    """Interpolate between the rows (`dim` 2) or columns (3) of each image's own range, whose ends are repeated."""
    size = images.shape[dim]
    middle = torch.arange(size, device=images.device, dtype=torch.float64) + 0.5
    place = middle * (length[:, None] / size) - 0.5
    place = place.clamp(min=0).minimum((length[:, None] - 1).double())
    low = place.floor()
    weight, low = (place - low).float(), low.long()
    high = (low + 1).minimum(length[:, None] - 1)
    shape = [len(images), 1, 1, 1]
    shape[dim] = size

    def taken(index: Tensor) -> Tensor:
        return images.gather(dim, (index + start[:, None]).view(shape).expand_as(images))

    return torch.lerp(taken(low), taken(high), weight.view(shape))
