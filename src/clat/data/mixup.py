"""Mixup (Zhang et al. 2018, arXiv:1710.09412): each image of a batch is blended with another one, and so are their
labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clat.core.errors import ClatError


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend every image with another of the batch, with one weight for the whole batch.

    x = lambda x_i + (1 - lambda) x_j and y alike, lambda from Beta(alpha, alpha), j a random order of the batch
    (section 2 of the paper, and its released code).

    Args:
        images: (N, C, H, W), float32 in [0, 1].
        labels: int64, shape (N,), in [0, num_classes).
        num_classes: the length of a row of the mixed labels.
        alpha: above 0; small values leave one of the two images nearly alone, 1 makes lambda uniform.
        generator: on the CPU, for the weight and the order.

    Returns:
        (images, labels): new images in [0, 1]; labels float32, shape (N, num_classes), each row a distribution.
    """
    kept = _beta(alpha, float(torch.rand((), generator=generator, dtype=torch.float64)))
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = torch.lerp(images[partner], images, kept).clamp_(0, 1)  # lerp may round past the end
    one_hot = F.one_hot(labels, num_classes).float()
    return mixed, kept * one_hot + (1 - kept) * one_hot[partner]


def check_alpha(alpha: float) -> None:
    """Raise an error for an alpha that no Beta distribution has.

    Args:
        alpha: both parameters of the distribution of the weights.

    Raises:
        ClatError: it is not above 0.
    """
    if not alpha > 0:
        raise ClatError(f"mixup's alpha is {alpha}: expected a number above 0, such as 0.2; leave it out for none")


def _beta(alpha: float, uniform: float) -> float:
    """Return the value of Beta(alpha, alpha) that a uniform number stands for: its quantile.

    Unlike a sampler's, the numbers do not depend on a library's version.
    """
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, uniform))
