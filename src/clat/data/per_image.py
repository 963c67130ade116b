"""A transform of the user's own, image by image: torchvision's, or any callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clat.core.checks import check_images, kind_of
from clat.core.errors import ClatError, first_line
from clat.data.draws import seeded_draws
from clat.data.held_generators import held_generators


@dataclass(frozen=True)
class PerImage:
    """Augments a batch with a callable that takes one image (`clat.data.BatchAugment`).

    Whatever the callable draws from torch on the CPU, `random`, NumPy or a generator that it holds follows from
    the seed, the epoch and the image's place in the batch alone; all states are left as they were. So it runs on
    the CPU.
    """

    transform: Callable[[Tensor], Any]
    """Takes one image as it is stored, uint8 or float32 in [0, 1], shape (C, H, W), and returns one of that shape,
    of either type. A transform of torchvision v2 does."""

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise ClatError(
                f"the augmentation is {self.transform!r}: expected a callable, image (C, H, W) to image; a name "
                "belongs to the recipe, data.augment"
            )

    @cached_property
    def generators(self) -> list[Any]:
        """Return the generators that the callable holds."""
        return held_generators(self.transform)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return a seed for each of n images: int64, shape (n, 1), on the generator's device."""
        return torch.randint(2**63 - 1, (n, 1), generator=generator, device=generator.device)

    def __call__(self, images: Tensor, params: Tensor | torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: shape (N, C, H, W), uint8, or float32 in [0, 1].
            params: what `draw` gave for N images, or a generator to draw them from.

        Returns:
            A new tensor of the same shape, on the same device: uint8, or float32 in [0, 1].

        Raises:
            ClatError: the callable fails, or returns anything but an image of that shape in [0, 1].
        """
        if isinstance(params, torch.Generator):
            params = self.draw(len(images), params)
        if not len(images):
            return images.clone()
        with seeded_draws(self.generators) as seed:
            made = []
            for image, number in zip(images.cpu(), params[:, 0].tolist(), strict=True):
                seed(number)
                made.append(self._apply(image))
        if len({image.dtype for image in made}) > 1:
            raise ClatError("the augmentation gives uint8 images and floating-point ones: expected one type")
        batch = torch.stack(made)
        if batch.dtype != torch.uint8:
            try:
                check_images(batch)
            except ClatError as error:
                raise ClatError(f"the augmentation's {error}") from None
        return batch.to(images.device)

    def _apply(self, image: Tensor) -> Tensor:
        try:
            found = self.transform(image.clone())  # which it may change in place
        except Exception as error:
            raise ClatError(
                f"the augmentation failed on an image of shape {tuple(image.shape)},"
                f" {type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(found, Tensor):
            raise ClatError(
                f"the augmentation returns a {kind_of(found)}: expected a tensor of shape {tuple(image.shape)}"
            )
        if found.shape != image.shape:
            raise ClatError(
                f"the augmentation makes images of shape {tuple(found.shape)} of {tuple(image.shape)}: expected the"
                " same, as held-out and test images keep theirs"
            )
        if found.dtype == torch.uint8:
            return found.as_subclass(Tensor)
        if not found.is_floating_point():
            raise ClatError(f"the augmentation gives {found.dtype}: expected uint8, or floating point in [0, 1]")
        return found.as_subclass(Tensor).float()
