"""A tiny network and the surroundings of a stage that trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.companion import Surroundings
from clat.config import EngineConfig
from clat.data import ImageSet
from clat.data.loader import Loader
from clat.training.engine import Engine

CLASSES = ("a", "b", "c")


class Net(nn.Module):
    """Two convolutions with BatchNorm, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, stride=2), nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.dropout(x.mean((2, 3))))


@pytest.fixture
def build() -> Callable[[], Net]:
    """A builder of one and the same network, in training mode, with statistics that are not trivial."""

    def make(seed: int = 0) -> Net:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Net()
            for bn in (net.bn1, net.bn2):
                nn.init.normal_(bn.running_mean, std=0.1)
                nn.init.uniform_(bn.running_var, 0.5, 1.5)
                nn.init.uniform_(bn.weight, 0.5, 1.5)
        return net

    return make


@pytest.fixture
def net(build: Callable[[], Net]) -> Net:
    return build()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def around() -> Callable[..., Surroundings]:
    """around(model, epochs=..., images=..., batch_size=...): 12 images in batches of 4, 20 more held out."""

    def make(model: nn.Module, epochs: int = 1, images: int = 12, batch_size: int = 4, **more: Any) -> Surroundings:
        generator = torch.Generator().manual_seed(2)
        pixels = torch.randint(0, 256, (images, 3, 8, 8), generator=generator).to(torch.uint8)
        train = ImageSet("noise", "train", CLASSES, pixels, torch.arange(images) % len(CLASSES))
        heldout = torch.rand(20, 3, 8, 8, generator=generator), torch.arange(20) % len(CLASSES)
        settings: dict[str, Any] = {
            "model": model,
            "engine": Engine(EngineConfig(device="cpu", channels_last=False)),
            "loader": Loader(train, batch_size, shuffle=True, drop_last=True),
            "heldout": heldout,
            "eps": "0.05",
            "norm": "linf",
            "seed": 0,
            "epochs": epochs,
            "batch_size": batch_size,
        }
        return Surroundings(**settings | more)

    return make


@pytest.fixture
def everything() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A copy of all parameters and buffers."""
    return lambda model: {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def same() -> Callable[[dict[str, Tensor], dict[str, Tensor]], bool]:
    """Whether two states are equal bit for bit."""
    return lambda one, other: one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def wander() -> Callable[[nn.Module, int], None]:
    """wander(model, step): every parameter takes a step that depends on nothing but its number."""

    @torch.no_grad()
    def move(model: nn.Module, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)

    return move
