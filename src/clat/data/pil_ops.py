"""Image operations of the Python Imaging Library, for a batch on its device, with Pillow's own 8-bit arithmetic.

Published augmentations work on PIL images, and what they do to a pixel follows from how Pillow truncates, what it
does at the border and which pixel it takes for the nearest. Each function here gives Pillow's bits. That is why
kornia's operations do not stand here, although their parameters can be given too: its colour operations round
where Pillow truncates (up to one grey level), its nearest-neighbour rotation takes other source pixels, its shear
has another centre, and it has no autocontrast.

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


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Return the images turned counter-clockwise about the centre (`Image.rotate`).

    Args:
        images: uint8, shape (N, C, H, W).
        degrees: the angle of each, shape (N,).

    Returns:
        A new tensor of the same shape and type; nearest pixel, black beyond the edge.
    """
    angle = torch.deg2rad(degrees.double())
    return _affine(images, torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1))


def shear_x(images: Tensor, radians: Tensor) -> Tensor:
    """Return the images with each row moved sideways by its distance from the centre times tan(radians).

    It is `Image.transform` with the matrix of torchvision's `affine`, which the published code calls.

    Args:
        images: uint8, shape (N, C, H, W).
        radians: the angle of each, shape (N,).

    Returns:
        A new tensor of the same shape and type; nearest pixel, black beyond the edge.
    """
    tangent = radians.double().tan()
    one, zero = torch.ones_like(tangent), torch.zeros_like(tangent)
    return _affine(images, torch.stack([one, tangent, zero, one], dim=1))


def shear_y(images: Tensor, radians: Tensor) -> Tensor:
    """Return the images with each column moved up or down, otherwise as `shear_x`.

    Args:
        images: uint8, shape (N, C, H, W).
        radians: the angle of each, shape (N,).

    Returns:
        A new tensor of the same shape and type; nearest pixel, black beyond the edge.
    """
    tangent = radians.double().tan()
    one, zero = torch.ones_like(tangent), torch.zeros_like(tangent)
    return _affine(images, torch.stack([one, zero, tangent, one], dim=1))


def shear_x_from_corner(images: Tensor, slope: Tensor) -> Tensor:
    """Moves row y, counted from the top, by slope * y pixels to the left; nearest, black beyond.

    The shear of AutoAugment and RandAugment (Cubuk et al. 2019 and 2020): `Image.transform` with the matrix
    (1, slope, 0, 0, 1, 0).
    """
    slope = slope.double()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine(images, torch.stack([one, slope, zero, one], dim=1), shift=torch.zeros(len(slope), 2))


def shear_y_from_corner(images: Tensor, slope: Tensor) -> Tensor:
    """Moves column x, counted from the left, by slope * x pixels up, otherwise as `shear_x_from_corner`."""
    slope = slope.double()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine(images, torch.stack([one, zero, slope, one], dim=1), shift=torch.zeros(len(slope), 2))


def translate(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Moves images by whole pixels, black where nothing came from."""
    height, width = images.shape[-2:]
    rows = torch.arange(height)[None, :] - down[:, None].long()
    columns = torch.arange(width)[None, :] - right[:, None].long()
    return pick(images, rows[:, :, None].to(images.device), columns[:, None, :].to(images.device))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps so many of the 8 bits of each value, the highest (`ImageOps.posterize`)."""
    mask = (256 - 2 ** (8 - bits.long())).to(images.device, torch.uint8)
    return images & mask[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values that are not below the threshold (`ImageOps.solarize`)."""
    threshold = threshold.to(images.device, torch.float32)[:, None, None, None]
    return torch.where(images < threshold, images, 255 - images)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue by a part of the circle, -0.5 to 0.5, through Pillow's 8-bit HSV; grey images stay.

    That is what torchvision's `adjust_hue` makes of a PIL image.
    """
    if images.shape[1] == 1:
        return images.clone()
    hue, saturation, value = _hsv(images)
    hue = (hue + (turn * 255).to(images.device, torch.int32)[:, None, None]) % 256
    return _rgb(hue, saturation, value)


def pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images whose every pixel is one of the old image, from a place of its own.

    Args:
        images: shape (N, C, H, W), any type.
        rows: the row that each output pixel comes from, int64, broadcastable to (N, H, W).
        columns: its column, as `rows`.

    Returns:
        A new tensor of the same shape; black where a place lies outside.
    """
    height, width = images.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    source = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    places = source.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view_as(images) * inside[:, None]


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


def _affine(images: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Output pixel (x, y), seen from the image's centre, is input pixel (a x + b y, c x + d y).

    `matrix`: (a, b, c, d), float64, shape (N, 4); `shift`, (N, 2): seen from the corner instead, and this
    is added. In 16.16 fixed point, as Pillow walks over the image: the coefficients are rounded once and then added
    up.
    """
    height, width = images.shape[-2:]
    a, b, c, d = matrix.unbind(1)
    offset_x = a * (-width / 2) + b * (-height / 2) + width / 2
    offset_y = c * (-width / 2) + d * (-height / 2) + height / 2
    if shift is not None:
        offset_x, offset_y = shift.double().unbind(1)
    first_x, first_y = offset_x + a * 0.5 + b * 0.5, offset_y + c * 0.5 + d * 0.5
    fixed = (torch.stack([a, b, c, d, first_x, first_y]) * 65536 + 0.5).floor().long()
    # Computed where the strengths are, in general on the CPU, so that no device has bits of its own.
    a, b, c, d, first_x, first_y = fixed.to(images.device)[:, :, None, None].unbind(0)
    y = torch.arange(height, device=images.device)[None, :, None]
    x = torch.arange(width, device=images.device)[None, None, :]
    columns = (first_x + b * y + a * x) >> 16
    rows = (first_y + d * y + c * x) >> 16
    return pick(images, rows, columns)


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
