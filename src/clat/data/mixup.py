"""Mixup (Zhang et al. 2018, arXiv:1710.09412): each image of a batch is blended with another one, and so are their
labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clat.core.errors import ClatError


@dataclass(frozen=True)
class Blend:
    """What mixup draws for a batch, before there are images.

    Attributes:
        partner: which image each one is blended with, a random order, int64, shape (N,).
        kept: the weight of the image itself, in [0, 1].
    """

    partner: Tensor
    kept: float

    def mix(
        self, images: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Blend each image with another, and their labels alike.

        Args:
            images: any of the batch, (M, C, H, W), float32 in [0, 1].
            labels: theirs, int64, shape (M,).
            others: the images' partners, of the same shape.
            other_labels: theirs.
            num_classes: the length of a row of the mixed labels.

        Returns:
            (images, labels): new images in [0, 1]; labels float32, shape (M, num_classes).
        """
        mixed = torch.lerp(others, images, self.kept).clamp_(0, 1)  # lerp may round past the end
        mine, theirs = (F.one_hot(one, num_classes).float() for one in (labels, other_labels))
        return mixed, self.kept * mine + (1 - self.kept) * theirs


def draw_blend(n: int, alpha: float, generator: torch.Generator) -> Blend:
    """Return what mixup does to a batch: one weight from Beta(alpha, alpha), and a random order.

    Args:
        n: images of the batch.
        alpha: above 0; small values leave one of the two images nearly alone, 1 makes lambda uniform.
        generator: on the CPU.

    Returns:
        The weight and the order.
    """
    kept = _beta(alpha, float(torch.rand((), generator=generator, dtype=torch.float64)))
    return Blend(torch.randperm(n, generator=generator), kept)


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
        alpha: see `draw_blend`.
        generator: on the CPU, for the weight and the order.

    Returns:
        (images, labels): new images in [0, 1]; labels float32, shape (N, num_classes), each row a distribution.
    """
    drawn = draw_blend(len(images), alpha, generator)
    partner = drawn.partner.to(images.device)
    return drawn.mix(images, labels, images[partner], labels[partner], num_classes)


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
