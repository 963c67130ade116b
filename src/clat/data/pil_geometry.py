"""Turns, shears and shifts of the Python Imaging Library, for a batch on its device, with Pillow's nearest pixel.

As in `clat.data.pil_ops`, each function gives Pillow's bits. Images are uint8, shape (N, C, H, W); a strength is
one number an image, shape (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Return the images with row y, counted from the top, moved by slope * y pixels to the left.

    The shear of AutoAugment and RandAugment (Cubuk et al. 2019 and 2020): `Image.transform` with the matrix
    (1, slope, 0, 0, 1, 0).

    Args:
        images: uint8, shape (N, C, H, W).
        slope: shape (N,).

    Returns:
        A new tensor of the same shape and type; nearest pixel, black beyond the edge.
    """
    slope = slope.double()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine(images, torch.stack([one, slope, zero, one], dim=1), shift=torch.zeros(len(slope), 2))


def shear_y_from_corner(images: Tensor, slope: Tensor) -> Tensor:
    """Return the images with column x, counted from the left, moved by slope * x pixels up.

    Args:
        images: uint8, shape (N, C, H, W).
        slope: shape (N,).

    Returns:
        As `shear_x_from_corner`.
    """
    slope = slope.double()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine(images, torch.stack([one, zero, slope, one], dim=1), shift=torch.zeros(len(slope), 2))


def translate(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Return the images moved by whole pixels.

    Args:
        images: uint8, shape (N, C, H, W).
        right: pixels, shape (N,).
        down: pixels, shape (N,).

    Returns:
        A new tensor of the same shape and type; black where nothing came from.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height)[None, :] - down[:, None].long()
    columns = torch.arange(width)[None, :] - right[:, None].long()
    return pick(images, rows[:, :, None].to(images.device), columns[:, None, :].to(images.device))


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


def _affine(images: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return images whose pixel (x, y), seen from the centre, is input pixel (a x + b y, c x + d y).

    `matrix`: (a, b, c, d), float64, shape (N, 4); `shift`, (N, 2): seen from the corner instead, and this is added.
    In 16.16 fixed point, as Pillow walks over the image: coefficients are rounded once and then added up.
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
