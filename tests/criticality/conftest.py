"""A network whose predictions vary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def lively() -> Callable[[], nn.Module]:
    """A builder of one and the same small network that gives the images of `images` several classes."""

    def build() -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bias=False)
        )
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
            model[5].weight.sub_(model[5].weight.mean(1, keepdim=True))
        return model.eval()

    return build
