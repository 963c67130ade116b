"""IDBH, the data augmentation that alone improves adversarial training (Li and Spratling 2023, arXiv:2301.09879).

Mirror, CropShift, one operation of a colour or shape space, RandomErasing: each drawn per image, the same in every
epoch. Probabilities and ranges are those of the published code, whose images ours match bit for bit (`pil_ops`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from clat.core.errors import ClatError, unknown
from clat.data import pil_geometry, pil_ops


class Choice(NamedTuple):
    """An operation, how often it is drawn, and the range that its strength is uniform over."""

    apply: Callable[[Tensor, Tensor], Tensor]
    probability: float
    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    """Either sign, with equal probability."""
    whole: bool = False
    """Whole numbers only, `high` among them."""


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    return pil_ops.autocontrast(images)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    return pil_ops.equalize(images)


SPACES: dict[str, tuple[Choice, ...]] = {
    "color": (
        Choice(pil_ops.adjust_color, 0.125, 0.1, 1.9),
        Choice(pil_ops.adjust_brightness, 0.125, 0.5, 1.9),
        Choice(pil_ops.adjust_contrast, 0.125, 0.5, 1.9),
        Choice(pil_ops.adjust_sharpness, 0.125, 0.1, 1.9),
        Choice(_autocontrast, 0.125),
        Choice(_equalize, 0.125),
        Choice(pil_geometry.shear_x, 0.0625, 0.05, 0.15, signed=True),
        Choice(pil_geometry.shear_y, 0.0625, 0.05, 0.15, signed=True),
        Choice(pil_geometry.rotate, 0.125, 1, 10, signed=True, whole=True),
    ),
    "shape": (
        Choice(pil_ops.adjust_color, 0.08, 0.1, 1.9),
        Choice(pil_ops.adjust_brightness, 0.08, 0.5, 1.9),
        Choice(pil_ops.adjust_contrast, 0.04, 0.5, 1.9),
        Choice(pil_ops.adjust_sharpness, 0.08, 0.1, 1.9),
        Choice(_autocontrast, 0.04),
        Choice(_equalize, 0.08),
        Choice(pil_geometry.shear_x, 0.15, 0.05, 0.35, signed=True),
        Choice(pil_geometry.shear_y, 0.15, 0.05, 0.35, signed=True),
        Choice(pil_geometry.rotate, 0.3, 1, 30, signed=True, whole=True),
    ),
}
"""ColorShape: radians for the shears, degrees for the rotation."""

_TRIES = 10  # of RandomErasing, to find a rectangle that is smaller than the image
_RATIOS = (math.log(0.3), math.log(3.3))


@dataclass(frozen=True, kw_only=True)
class IDBH:
    """A batch augmentation (`clat.data.BatchAugment`); `IDBH_VARIANTS` holds the published ones.

    Raises:
        ClatError: a field outside its range.
    """

    crop_shift: int = 10
    """CropShift: up to this many rows and columns together, uniform from 0, are cut off; what is left is put
    back at a random place on black."""
    space: Literal["color", "shape"] = "color"
    """Which of `SPACES` the one operation an image comes from."""
    erase: float = 0.5
    """RandomErasing: the probability that a black rectangle (Zhong et al. 2020) is put on an image."""
    erase_area: tuple[float, float] = (0.02, 0.33)
    """Its area, as a fraction of the image; its height over its width is log-uniform in [0.3, 3.3]."""
    flip: bool = True
    """Mirror left and right with probability 1/2."""

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise unknown("space of IDBH", self.space, SPACES)
        if self.crop_shift < 0:
            raise ClatError(f"IDBH's crop_shift is {self.crop_shift}: expected a number of pixels, 0 or more")
        low, high = self.erase_area
        if not (0 <= self.erase <= 1 and 0 < low <= high < 1):
            raise ClatError(
                f"IDBH erases with probability {self.erase} an area of {low} to {high}: expected fractions"
            )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return random parameters of n images.

        Columns: mirrored; rows and columns cut off; the first one kept of each; where the window is put (top,
        left); which operation; its strength; whether to erase; ten attempts at a rectangle (areas, then ratios of
        height to width); its place as fractions of the room that it has.

        Args:
            n: images, 0 or more.
            generator: the only source of randomness; the parameters lie on its device.

        Returns:
            float64, shape (n, 32).
        """
        shape, device = (n, 11 + 2 * _TRIES + 2), generator.device
        uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        mirror, cut, cut_x, top, left, to_top, to_left, op, size, sign, erase = uniform[:, :11].unbind(1)
        cut = _whole(cut, self.crop_shift)
        cut_x = _whole(cut_x, cut)
        cut_y = cut - cut_x
        areas, ratios = uniform[:, 11:-2].split(_TRIES, dim=1)
        smallest, largest = self.erase_area
        columns = (
            (mirror < 0.5).double() * self.flip,
            cut_y,
            cut_x,
            _whole(top, cut_y),
            _whole(left, cut_x),
            _whole(to_top, cut_y),
            _whole(to_left, cut_x),
            *self._draw_operation(op, size, sign),
            (erase < self.erase).double(),
            *(smallest + (largest - smallest) * areas).unbind(1),
            *(_RATIOS[0] + (_RATIOS[1] - _RATIOS[0]) * ratios).exp().unbind(1),
            *uniform[:, -2:].unbind(1),
        )
        return torch.stack(columns, dim=1)

    def _draw_operation(self, op: Tensor, size: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """Return an operation's number in the space and its strength, from three uniform numbers an image."""
        space = SPACES[self.space]
        ends = torch.tensor([choice.probability for choice in space], dtype=torch.float64, device=op.device)
        number = torch.searchsorted(ends.cumsum(0), op.contiguous(), right=True).clamp(max=len(space) - 1)
        rows = [(c.low, c.high + c.whole, c.signed, c.whole) for c in space]
        low, high, signed, whole = torch.tensor(rows, dtype=torch.float64, device=op.device)[number].unbind(1)
        strength = low + (high - low) * size
        strength = torch.where(whole > 0, strength.floor(), strength)
        return number.double(), torch.where((signed > 0) & (sign < 0.5), -strength, strength)

    def __call__(self, images: Tensor, params: Tensor | torch.Generator) -> Tensor:
        """Return the augmented images of a batch.

        Args:
            images: uint8, shape (N, C, H, W), C 3 or 1.
            params: what `draw` gave for N images, or a generator to draw them from.

        Returns:
            A new tensor of the same shape, type and device.

        Raises:
            ClatError: images of another type or number of channels, or smaller than what CropShift cuts off.
        """
        n, channels, height, width = images.shape
        if images.dtype != torch.uint8 or channels not in (1, 3):
            raise ClatError(
                f"IDBH works on 8-bit images with 3 channels or 1: these are {images.dtype} with {channels}"
            )
        if min(height, width) <= self.crop_shift:
            raise ClatError(
                f"IDBH cuts up to {self.crop_shift} pixels off, but the images are {width}x{height}:"
                " use the standard augmentation"
            )
        if isinstance(params, torch.Generator):
            params = self.draw(n, params)
        params = params.cpu()  # where the draw is made; which image gets which operation is decided there too
        images = _crop_shift(images, *params[:, :7].long().to(images.device).unbind(1))
        for number, choice in enumerate(SPACES[self.space]):
            chosen = (params[:, 7] == number).nonzero().squeeze(1)
            if len(chosen):
                here = chosen.to(images.device)
                images[here] = choice.apply(images[here], params[chosen, 8])
        areas, ratios, place = params[:, 10:].split([_TRIES, _TRIES, 2], dim=1)
        return _erase(images, params[:, 9] > 0, areas, ratios, place)


IDBH_VARIANTS = {
    "idbh-weak": IDBH(erase=0.5),
    "idbh-strong": IDBH(erase=1.0),
    "idbh-svhn": IDBH(crop_shift=8, space="shape", erase=1.0, erase_area=(0.02, 0.5)),
}
"""As published: weak for WideResNets with weight averaging and strong for ResNet-18, both on CIFAR-10."""


def _whole(uniform: Tensor, largest: Tensor | int) -> Tensor:
    """Return a whole number uniform over 0, 1, ..., largest, from one uniform in [0, 1)."""
    return (uniform * (largest + 1)).floor()


def _crop_shift(
    images: Tensor,
    mirrored: Tensor,
    cut_y: Tensor,
    cut_x: Tensor,
    top: Tensor,
    left: Tensor,
    to_top: Tensor,
    to_left: Tensor,
) -> Tensor:
    """Mirror, take the window of (H - cut_y, W - cut_x) at (top, left), put it at (to_top, to_left) on black."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - to_top[:, None]
    columns = torch.arange(width, device=images.device) - to_left[:, None]
    row_inside = (rows >= 0) & (rows < height - cut_y[:, None])
    column_inside = (columns >= 0) & (columns < width - cut_x[:, None])
    rows, columns = rows + top[:, None], columns + left[:, None]
    columns = torch.where(mirrored[:, None] > 0, width - 1 - columns, columns)
    outside = -1
    return pil_geometry.pick(
        images,
        torch.where(row_inside, rows, outside)[:, :, None],
        torch.where(column_inside, columns, outside)[:, None, :],
    )


def _erase(images: Tensor, wanted: Tensor, areas: Tensor, ratios: Tensor, place: Tensor) -> Tensor:
    """Blacken the first rectangle of each image's attempts that is smaller than the image, if any is."""
    height, width = images.shape[-2:]
    heights = (areas * height * width * ratios).sqrt().round()
    widths = (areas * height * width / ratios).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.long().argmax(1, keepdim=True)
    wanted = wanted & fits.any(1)
    tall = heights.gather(1, first).squeeze(1) * wanted
    wide = widths.gather(1, first).squeeze(1)
    top = (place[:, 0] * (height - tall + 1)).floor()
    left = (place[:, 1] * (width - wide + 1)).floor()
    box = torch.stack([top, top + tall, left, left + wide], dim=1).to(images.device)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    top, bottom, left, right = box[:, :, None].unbind(1)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return images.masked_fill(inside[:, None], 0)
