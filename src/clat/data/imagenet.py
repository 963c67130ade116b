"""The augmentation of ImageNet's shape: random resized crop, mirror, colour jitter, RandAugment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.data import jitter, rand_augment, random_crop


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings:
    """What `data.augment = "imagenet"` does, in this order; `data.flip` mirrors after the crop."""

    area: tuple[float, float] = (0.08, 1.0)
    """Of the random crop, as fractions of the image; it is resized to the image's own size."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Of its width to its height."""
    brightness: float = 0.0
    """Colour jitter: the largest change of the factor 1."""
    contrast: float = 0.0
    """As brightness."""
    saturation: float = 0.0
    """As brightness."""
    hue: float = 0.0
    """The largest turn either way, as a part of the circle: at most 0.5."""
    rand_augment: int = 0
    """RandAugment: operations on each image; 0: none."""
    magnitude: int = 9
    """Their strength, 0 to 30."""
    by: Literal["auto", "torchvision", "batch"] = "auto"
    """torchvision: its transforms (v2), image by image on the CPU; batch: our own, a batch at a time on the device,
    which draw other numbers; auto: torchvision where it can be imported. A run records which."""

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ClatError(f"imagenet area is {low} to {high}: expected two fractions, the smaller one first")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ClatError(f"imagenet ratio is {low} to {high}: expected two above 0, the smaller one first")
        wrong = jitter.check_amounts(self.amounts)
        if wrong is not None:
            raise ClatError(f"imagenet brightness, contrast, saturation, hue are {self.amounts}: expected {wrong}")
        if self.rand_augment < 0:
            raise ClatError(f"imagenet rand_augment is {self.rand_augment}: expected operations, 0 or more")
        if not 0 <= self.magnitude < rand_augment.BINS:
            raise ClatError(f"imagenet magnitude is {self.magnitude}: expected 0 to {rand_augment.BINS - 1}")

    @property
    def amounts(self) -> tuple[float, float, float, float]:
        """Return the jitter of brightness, contrast, saturation and hue."""
        return (self.brightness, self.contrast, self.saturation, self.hue)


@dataclass(frozen=True, kw_only=True)
class ImagenetAugment:
    """The batch augmentation of these settings, on the images' device (`clat.data.BatchAugment`)."""

    settings: ImagenetSettings = field(default_factory=ImagenetSettings)
    flip: bool = True
    """Mirror left and right with probability 1/2."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the uniform numbers of n images: float64, shape (n, K), on the generator's device."""
        width = random_crop.COLUMNS + 1 + jitter.COLUMNS + rand_augment.COLUMNS * self.settings.rand_augment
        return torch.rand((n, width), generator=generator, device=generator.device, dtype=torch.float64)

    def __call__(self, images: Tensor, params: Tensor | torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8, shape (N, C, H, W), C 3 or 1.
            params: what `draw` gave for N images, or a generator to draw them from.

        Returns:
            A new tensor of the same shape, type and device.

        Raises:
            ClatError: images of another type or number of channels.
        """
        n, channels, height, width = images.shape
        if images.dtype != torch.uint8 or channels not in (1, 3):
            raise ClatError(
                "the imagenet augmentation works on 8-bit images with 3 channels or 1: these are"
                f" {images.dtype} with {channels}"
            )
        if isinstance(params, torch.Generator):
            params = self.draw(n, params)
        chosen, params = self.settings, params.cpu()  # which operation an image gets is decided there
        crop, mirror, colour, operations = params.tensor_split(
            (random_crop.COLUMNS, random_crop.COLUMNS + 1, random_crop.COLUMNS + 1 + jitter.COLUMNS), dim=1
        )
        windows = random_crop.draw_windows(crop, height, width, chosen.area, chosen.ratio)
        images = random_crop.crop_and_resize(images, windows)
        if self.flip:
            mirrored = (mirror[:, 0] < 0.5).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if any(chosen.amounts):
            images = jitter.jitter_colours(images, colour, chosen.amounts)
        if chosen.rand_augment:
            images = rand_augment.rand_augment(images, operations, chosen.magnitude)
        return images
