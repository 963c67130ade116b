"""CutMix (Yun et al. 2019, arXiv:1905.04899) as Rebuffi et al. 2021 and Wang et al. 2023 use it in adversarial
training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cutmix(images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put one window of another image of the batch into every image, and mix their labels by its area.

    The window, the same for the whole batch, has the sides (H, W) * sqrt(1 - lambda), lambda from Beta(1, 1), about
    a uniform pixel; what reaches beyond the edge is cut off, and the labels follow the area that is left. The
    images that windows come from are a random order of the batch.

    Args:
        images: shape (N, C, H, W), any type.
        labels: int64, shape (N,), in [0, num_classes).
        num_classes: how many probabilities a label becomes.
        generator: on the CPU, for the window and the order.

    Returns:
        (images, labels); new images; labels float32, shape (N, num_classes), each row a distribution.
    """
    n, _, height, width = images.shape
    top, bottom, left, right = _window(height, width, generator)
    partner = torch.randperm(n, generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    one_hot = F.one_hot(labels, num_classes).float()
    return mixed, kept * one_hot + (1 - kept) * one_hot[partner]


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
