"""Random resized crop and flip, the augmentation of ImageNet-shaped training, for a whole batch on its device.

Source: Szegedy et al. 2015, arXiv 1409.4842, section 6: a part of 8 to 100 % of the image's area and an aspect
ratio from 3/4 to 4/3, resized to the whole. Here the image is the square that a set was resized to, and the part
is read by bilinear sampling without antialiasing: it is never larger than the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clat.core.errors import ClatError


@dataclass(frozen=True)
class ResizedCrop:
    """Crops a random part of each image, resizes it to the image's size, and mirrors half of the images.

    Raises:
        ClatError: a field outside its range.
    """

    smallest: float = 0.08
    """The least part of the area, in (0, 1]."""
    aspect: float = 4 / 3
    """The largest width over height, and its inverse the smallest; at least 1."""
    flip: bool = True
    """Mirror left and right with probability 1/2."""

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise ClatError(f"augment smallest is {self.smallest}: expected a part of the area, from 0 to 1")
        if not 1 <= self.aspect < math.inf:
            raise ClatError(f"augment aspect is {self.aspect}: expected at least 1")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return a random part and a coin for each of n images.

        A part that would not fit is narrowed to the image's width, or lowered to its height.

        Args:
            n: images, 0 or more.
            generator: the only source of randomness; the parameters lie on its device.

        Returns:
            (width, height, left, top, mirrored) of each image, float32, shape (n, 5): the first four as parts of
            the image's side, mirrored 0 or 1.
        """
        u = torch.rand(n, 5, generator=generator, device=generator.device)
        area = self.smallest + (1 - self.smallest) * u[:, 0]
        ratio = torch.exp(math.log(self.aspect) * (2 * u[:, 1] - 1))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        mirrored = (u[:, 4] < 0.5).float() * self.flip
        return torch.stack([width, height, (1 - width) * u[:, 2], (1 - height) * u[:, 3], mirrored], dim=1)

    def __call__(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Return the augmented images of a batch.

        Args:
            images: uint8, shape (N, C, H, W).
            params: what `draw` gave for N images.

        Returns:
            A new tensor of the same shape, type and device.
        """
        width, height, left, top, mirrored = params.to(images.device, torch.float32).unbind(1)
        # In [-1, 1], whose ends are the outer borders of the outer pixels to grid_sample.
        turn = torch.zeros(len(images), 2, 3, device=images.device)
        turn[:, 0, 0] = torch.where(mirrored.bool(), -width, width)
        turn[:, 1, 1] = height
        turn[:, 0, 2], turn[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
        grid = F.affine_grid(turn, list(images.shape), align_corners=False)
        found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found.round().clamp(0, 255).to(images.dtype)
