"""A tiny network, and what is compared of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
