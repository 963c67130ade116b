"""A linear network, whose robustness is known in closed form, and images for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Logits <w_k, x>. In float64 and rounded, so that no logit depends on the batch; the gradient is w. After
    `calls` forward passes it raises KeyboardInterrupt, as a user would."""

    def __init__(self, classes: int, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn((classes, *shape), generator=generator, dtype=torch.float64))
        self.forwards = self.backwards = 0
        self.calls: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.calls is not None:
            if self.calls == 0:
                raise KeyboardInterrupt
            self.calls -= 1
        self.forwards += len(x)
        z = (x.double()[:, None] * self.w).flatten(2).sum(2)
        z = z + ((z * 2**30).round() / 2**30 - z).detach()
        if z.requires_grad:
            z.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + len(gradient)))
        return z

    def distances(self, x: Tensor, y: Tensor, norm: str = "linf") -> Tensor:
        """How far each image is from its nearest decision boundary (N,); negative where it is misclassified."""
        with torch.no_grad():
            z = self(x)
            gaps = z.gather(1, y[:, None]) - z
            lengths = (self.w[y][:, None] - self.w).flatten(2)
            lengths = lengths.abs().sum(2) if norm == "linf" else lengths.norm(dim=2)
        return (gaps / lengths).nan_to_num(torch.inf).scatter(1, y[:, None], torch.inf).amin(1)


@pytest.fixture
def linear() -> Callable[..., Linear]:
    """linear(classes=5, shape=(3, 4, 4), seed=0)"""

    def build(classes: int = 5, shape: tuple[int, ...] = (3, 4, 4), seed: int = 0) -> Linear:
        return Linear(classes, shape, seed)

    return build


@pytest.fixture
def samples() -> Callable[..., tuple[Tensor, Tensor]]:
    """samples(model, count): images far from 0 and 1, labelled as the model sees them but for every seventh."""

    def build(model: Linear, count: int = 20) -> tuple[Tensor, Tensor]:
        x = torch.rand((count, *model.w.shape[1:]), generator=torch.Generator().manual_seed(7)) * 0.2 + 0.4
        with torch.no_grad():
            y = model(x).argmax(1)
        y[3::7] = (y[3::7] + 1) % len(model.w)
        model.forwards = 0
        return x, y

    return build
