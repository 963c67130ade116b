"""Tiny networks and batches that several folders use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clat.models.resnet import resnet18


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, and BatchNorm statistics, that are not the trivial ones of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


@pytest.fixture
def images() -> Tensor:
    """(6, 3, 8, 8) in [0, 1]."""
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def tiny_resnet() -> Callable[[], nn.Module]:
    """A builder of one and the same ResNet-18 of width 4, in evaluation mode."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for the biases, which `randomise` leaves alone
            return randomise(resnet18(width=4)).eval()

    return build
