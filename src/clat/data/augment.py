"""Random pad-crop and horizontal flip, for a whole batch at once on its device.

This is our own code rather than kornia's: kornia's random operations accept no generator, which rules out
batches that depend on nothing but (seed, epoch, batch), and its cropping by slices loops over the samples in
Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted


class BatchAugment(Protocol):
    """An augmentation that `Loader` can use: drawing its parameters, one row a sample, is apart from applying them.

    So the draw can be made for a global batch, on the CPU, and each process applies its rows of it.
    """

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return random parameters of n samples.

        Args:
            n: samples, 0 or more.
            generator: the only source of randomness; the parameters lie on its device.

        Returns:
            One row a sample, shape (n, ...).
        """

    def __call__(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Return the augmented images.

        Args:
            images: uint8, shape (N, C, H, W).
            params: rows that `draw` gave, one an image.

        Returns:
            A new tensor of the same shape, type and device.
        """


@dataclass(frozen=True)
class Augment:
    """Pads by `pad` pixels, crops back to the old size at a random place, and mirrors half of the images.

    With the defaults this is the standard CIFAR augmentation (He et al., 2016, arXiv:1512.03385, section 4.2).

    Raises:
        ClatError: a field outside its range.
    """

    pad: int = 4
    """Pixels on each side, 0 or more; the window moves by up to this far."""
    flip: bool = True
    """Mirror left and right with probability 1/2."""
    padding_mode: str = "zeros"
    """What is beyond the edge: ``zeros`` (black) or ``reflect`` (mirrored, the edge pixel not repeated)."""

    def __post_init__(self) -> None:
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ClatError(f"augment pad is {self.pad!r}, expected a whole number of pixels, 0 or more")
        if not isinstance(self.flip, bool):
            raise ClatError(f"augment flip is {self.flip!r}, expected true or false")
        if self.padding_mode not in ("zeros", "reflect"):
            raise unknown("padding_mode", self.padding_mode, ("zeros", "reflect"))

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return a random place and a coin for each of n images.

        Args:
            n: images, 0 or more.
            generator: the only source of randomness; the parameters lie on its device.

        Returns:
            (top, left, mirrored) of each image, int64, shape (n, 3). top and left are in [0, 2 * pad] (`pad` is the
            middle), mirrored is 0 or 1.
        """
        place = torch.randint(2 * self.pad + 1, (n, 2), generator=generator, device=generator.device)
        mirrored = torch.randint(1 + self.flip, (n, 1), generator=generator, device=generator.device)
        return torch.cat([place, mirrored], dim=1)

    def __call__(self, images: torch.Tensor, params: torch.Tensor | torch.Generator) -> torch.Tensor:
        """Return the augmented images of a batch.

        Args:
            images: shape (N, C, H, W), any type and value range (uint8 moves the least memory).
            params: what `draw` gave for N images, or a generator to draw them from.

        Returns:
            A new tensor of the same shape, type and device.

        Raises:
            ClatError: padding as wide as the image.
        """
        n, _, height, width = images.shape
        if self.pad >= min(height, width):  # a window could miss the image, and a reflection has no more rows
            raise ClatError(
                f"cannot pad {width}x{height} images by {counted(self.pad, 'pixel')}: give a smaller pad"
            )
        if isinstance(params, torch.Generator):
            params = self.draw(n, params)
        top, left, mirrored = params.to(images.device, non_blocking=True).unbind(1)
        # Every window of the padded batch is a view; one gather picks each image's own.
        windows = self._padded(images).unfold(2, height, 1).unfold(3, width, 1)
        cropped = windows[torch.arange(n, device=images.device), :, top, left]
        return torch.where(mirrored.bool()[:, None, None, None], cropped.flip(-1), cropped)

    def _padded(self, images: torch.Tensor) -> torch.Tensor:
        if self.padding_mode == "zeros":
            return F.pad(images, (self.pad,) * 4)
        # By index, since F.pad reflects no uint8: row -r is row r, and row last + r is row last - r.
        for dim in (2, 3):
            last = images.shape[dim] - 1
            wanted = torch.arange(-self.pad, last + 1 + self.pad, device=images.device)
            images = images.index_select(dim, last - (wanted.abs() - last).abs())
        return images
