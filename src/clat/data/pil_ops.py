"""Image operations of the Python Imaging Library, for a batch on its device, with Pillow's own 8-bit arithmetic.

What published augmentations do to a pixel follows from how Pillow truncates, what it does at the border and which
pixel it takes for the nearest: each function gives Pillow's bits, which kornia's operations do not.
Images are uint8, shape (N, C, H, W), with 3 channels or 1. A strength is one number an image, shape (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (19595, 38470, 7471)  # of 65536: the weights of ITU-R 601-2 in Pillow's fixed point


def adjust_color(images: Tensor, strength: Tensor) -> Tensor:
    """Return the images with another saturation (`ImageEnhance.Color`).

    Args:
        images: uint8, shape (N, C, H, W).
        strength: shape (N,); 0 is grey, 1 the image itself, more is more colourful.

    Returns:
        A new tensor of the same shape and type.
    """
    return _blend(_grey(images), images, strength)


def adjust_brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Return the images brighter or darker (`ImageEnhance.Brightness`).

    Args:
        images: uint8, shape (N, C, H, W).
        strength: shape (N,); 0 is black, 1 the image itself, more is brighter.

    Returns:
        A new tensor of the same shape and type.
    """
    return _blend(torch.zeros_like(images), images, strength)


def adjust_contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Return the images with another contrast (`ImageEnhance.Contrast`).

    Args:
        images: uint8, shape (N, C, H, W).
        strength: shape (N,); 0 is the image's mean grey, 1 the image itself.

    Returns:
        A new tensor of the same shape and type.
    """
    grey = _grey(images).long()
    count = grey[0].numel() if len(grey) else 1
    mean = (2 * grey.sum((1, 2, 3), keepdim=True) + count) // (2 * count)  # rounded, halves up
    return _blend(mean, images, strength)


def adjust_sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Return the images sharper or smoother (`ImageEnhance.Sharpness`).

    Smoothed is the mean of a pixel (weight 5) and its eight neighbours; the outermost pixels stay as they are.

    Args:
        images: uint8, shape (N, C, H, W).
        strength: shape (N,); 0 is a smoothed image, 1 the image itself.

    Returns:
        A new tensor of the same shape and type.
    """
    levels = images.int()
    rows = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * levels[..., 1:-1, 1:-1]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = ((total + 6) // 13).to(torch.uint8)  # rounded: 13 is odd, so there are no halves
    return _blend(smooth, images, strength)


def autocontrast(images: Tensor) -> Tensor:
    """Return the images with each channel stretched to 0 to 255 (`ImageOps.autocontrast`).

    Args:
        images: uint8, shape (N, C, H, W).

    Returns:
        A new tensor of the same shape and type; a channel of a single level stays.
    """
    low, high = images.amin((2, 3), keepdim=True).double(), images.amax((2, 3), keepdim=True).double()
    # float64, divided as tensors and in this order: the brightest level comes out as 254.99... for some pairs of
    # levels, and PyTorch would take a plain 255 times a reciprocal.
    scale = torch.full_like(high, 255) / (high - low).clamp(min=1)
    stretched = (images.double() * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor) -> Tensor:
    """Return the images with each channel's histogram flattened (`ImageOps.equalize`).

    Args:
        images: uint8, shape (N, C, H, W).

    Returns:
        A new tensor of the same shape and type.
    """
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = (flat == flat.amax(2, keepdim=True)).sum(2, keepdim=True)
    step = (flat.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    # Fewer than 255 pixels below the brightest level: Pillow leaves the channel alone.
    return torch.where(step > 0, table.gather(2, flat), flat).to(torch.uint8).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Return the images with the highest bits of each value kept (`ImageOps.posterize`).

    Args:
        images: uint8, shape (N, C, H, W).
        bits: how many of 8, shape (N,).

    Returns:
        A new tensor of the same shape and type.
    """
    mask = (256 - 2 ** (8 - bits.long())).to(images.device, torch.uint8)
    return images & mask[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Return the images with values that are not below a threshold inverted (`ImageOps.solarize`).

    Args:
        images: uint8, shape (N, C, H, W).
        threshold: 0 to 256, shape (N,).

    Returns:
        A new tensor of the same shape and type.
    """
    threshold = threshold.to(images.device, torch.float32)[:, None, None, None]
    return torch.where(images < threshold, images, 255 - images)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Return the images with their hue turned, through Pillow's 8-bit HSV.

    That is what torchvision's `adjust_hue` makes of a PIL image.

    Args:
        images: uint8, shape (N, C, H, W).
        turn: a part of the circle, -0.5 to 0.5, shape (N,).

    Returns:
        A new tensor of the same shape and type; grey images stay.
    """
    if images.shape[1] == 1:
        return images.clone()
    hue, saturation, value = _hsv(images)
    hue = (hue + (turn * 255).to(images.device, torch.int32)[:, None, None]) % 256
    return _rgb(hue, saturation, value)


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue, saturation and value, 0 to 255, int32, each (N, H, W).

    float32 and float64 alternate here and in `_rgb` as in Pillow's C code, whose variables are float and whose
    constants double: elsewhere some colours would come out one level apart.
    """
    low, high = images.amin(1).float(), images.amax(1).float()
    spread = (high - low).clamp(min=1)  # where it is 0, the hue is set to 0 below
    red, green, blue = images.float().unbind(1)
    from_red, from_green, from_blue = (((high - one) / spread) for one in (red, green, blue))
    sector = torch.where(
        green == high,
        (2 + from_red.double() - from_blue.double()).float(),
        (4 + from_green.double() - from_red.double()).float(),
    )
    sector = torch.where(red == high, from_blue - from_green, sector)
    turned = torch.fmod(sector.double() / 6 + 1, 1).float()
    hue = (turned.double() * 255).int()
    saturation = (((high - low) / high.clamp(min=1)).double() * 255).int()
    return torch.where(high > low, hue, 0), saturation, high.int()


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) of what `_hsv` gives."""
    turned = hue.double() * 6 / 255
    sector = turned.floor()
    part, strength, bright = (turned - sector).float(), (saturation.double() / 255).float(), value.double()
    falling, rising = (strength * part).double(), strength.double() * (1 - part.double())
    p, q, t = ((bright * (1 - less) + 0.5).floor() for less in (strength.double(), falling, rising))
    order = ((bright, t, p), (q, bright, p), (p, bright, t), (p, q, bright), (t, p, bright), (bright, p, q))
    by_sector = torch.stack([torch.stack(one, dim=1) for one in order])
    chosen = (sector.long() % 6)[None, :, None].expand(1, -1, 3, -1, -1)
    return by_sector.gather(0, chosen)[0].clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Return the luma, uint8, shape (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA, dtype=torch.int32, device=images.device)[:, None, None]
    weighted = (images.int() * weights).sum(1, keepdim=True)
    return ((weighted + 32768) >> 16).to(torch.uint8)


def _blend(low: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Return low + strength * (images - low) in float32, truncated (`Image.blend`)."""
    low = low.float()
    factor = strength.to(images.device, torch.float32)[:, None, None, None]
    return (low + factor * (images.float() - low)).clamp(0, 255).to(torch.uint8)
