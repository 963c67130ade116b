"""CutMix (Yun et al. 2019, arXiv:1905.04899) as Rebuffi et al. 2021 and Wang et al. 2023 use it in adversarial
training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """What CutMix draws for a batch, before there are images: so each process can decode just what it needs.

    Attributes:
        partner: which image each one's window comes from, a random order, int64, shape (N,).
        window: (top, bottom, left, right), the ends exclusive.
    """

    partner: Tensor
    window: tuple[int, int, int, int]

    def mix(
        self, images: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Put the window of another image into each, and mix their labels by its area.

        Args:
            images: any of the batch, shape (M, C, H, W).
            labels: theirs, int64, shape (M,).
            others: the images' partners, of the same shape.
            other_labels: theirs.
            num_classes: how many probabilities a label becomes.

        Returns:
            (images, labels); new images; labels float32, shape (M, num_classes).
        """
        top, bottom, left, right = self.window
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
        mine, theirs = (F.one_hot(one, num_classes).float() for one in (labels, other_labels))
        return mixed, kept * mine + (1 - kept) * theirs


def draw_windows(n: int, height: int, width: int, generator: torch.Generator) -> Windows:
    """Return what CutMix does to a batch.

    The window, the same for the whole batch, has the sides (H, W) * sqrt(1 - lambda), lambda from Beta(1, 1), about
    a uniform pixel; what reaches beyond the edge is cut off, and the labels follow the area that is left. The
    images that windows come from are a random order of the batch.

    Args:
        n: images of the batch.
        height: pixels.
        width: pixels.
        generator: on the CPU.

    Returns:
        The window and the order.
    """
    window = _window(height, width, generator)
    return Windows(torch.randperm(n, generator=generator), window)


def cutmix(images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put one window of another image of the batch into every image, and mix their labels by its area.

    Args:
        images: shape (N, C, H, W), any type.
        labels: int64, shape (N,), in [0, num_classes).
        num_classes: how many probabilities a label becomes.
        generator: on the CPU, see `draw_windows`.

    Returns:
        (images, labels); new images; labels float32, shape (N, num_classes), each row a distribution.
    """
    height, width = images.shape[2:]
    drawn = draw_windows(len(images), height, width, generator)
    partner = drawn.partner.to(images.device)
    return drawn.mix(images, labels, images[partner], labels[partner], num_classes)


def _window(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right), the ends exclusive."""
    # Beta(1, 1) is the uniform distribution, and 1 - lambda is as uniform as lambda.
    share, y, x = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    middle_y, middle_x = int(y * height), int(x * width)
    half_y, half_x = (int(side * math.sqrt(share)) // 2 for side in (height, width))
    return (
        max(middle_y - half_y, 0),
        min(middle_y + half_y, height),
        max(middle_x - half_x, 0),
        min(middle_x + half_x, width),
    )
