"""What the examples work on: handwritten digits, and a small network that is somewhat robust already."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import clat

EPS = "0.1"


def images(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 8, 8) in [0, 1] and labels (N,) of handwritten digits."""
    found = clat.load_split("digits", split).take(count)
    assert isinstance(found.images, Tensor)
    return found.images.float() / 255, found.labels


def batches(x: Tensor, y: Tensor, size: int = 50) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader that shuffles."""
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)


def network() -> nn.Module:
    """Return a small network: images in [0, 1] to logits."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(512, 10)),
    )


def robust(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 2) -> nn.Module:
    """Train a network on PGD's examples, which any loop can: CLAT keeps robustness and gives none."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for images, labels in batches(x, y):
            attacked = clat.attacks.pgd(model, images, labels, eps=EPS, steps=3)
            optimizer.zero_grad()
            F.cross_entropy(model.train()(attacked), labels).backward()
            optimizer.step()
    return model.eval()
