"""A network small enough to compute everything about it by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.network.layers import Layer, enumerate_layers


class Net(nn.Module):
    """conv1 - bn1 - relu - conv2 - bn2 - relu - mean - head. `features` gives every tap of both layers."""

    def __init__(self, in_channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)["logits"]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for number, (conv, bn) in enumerate(((self.conv1, self.bn1), (self.conv2, self.bn2)), start=1):
            found[f"output{number}"] = x = conv(x)
            found[f"norm{number}"] = x = bn(x)
            found[f"activation{number}"] = x = F.relu(x)
        found["logits"] = self.head(x.mean((2, 3)))
        return found


@pytest.fixture
def build() -> Callable[[], Net]:
    """A builder of one and the same network, in evaluation mode, with statistics that are not trivial."""

    def make() -> Net:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = Net()
            for bn in (net.bn1, net.bn2):
                nn.init.normal_(bn.running_mean, std=0.1)
                nn.init.uniform_(bn.running_var, 0.5, 1.5)
                nn.init.uniform_(bn.weight, 0.5, 1.5)
        return net.eval()

    return make


@pytest.fixture
def net(build: Callable[[], Net]) -> Net:
    return build()


@pytest.fixture
def layers(net: Net, images: Tensor) -> tuple[Layer, ...]:
    """conv1 and conv2."""
    found = tuple(enumerate_layers(net, images))
    assert [layer.name for layer in found] == ["conv1", "conv2"]
    return found


class Table(nn.Module):
    """Gives the logits `clean` (N, K) for images of zeros and `moved` for all others, each a parameter."""

    def __init__(self, clean: Tensor, moved: Tensor) -> None:
        super().__init__()
        self.clean, self.moved = nn.Parameter(clean), nn.Parameter(moved)

    def forward(self, x: Tensor) -> Tensor:
        still = (x.flatten(1) == 0).all(dim=1, keepdim=True)
        return torch.where(still, self.clean, self.moved)


@pytest.fixture
def table() -> Callable[[list[list[float]], list[list[float]]], Table]:
    """A builder of a `Table` from probabilities."""

    def make(clean: list[list[float]], moved: list[list[float]]) -> Table:
        return Table(torch.tensor(clean).log(), torch.tensor(moved).log())

    return make


@pytest.fixture
def steep(build: Callable[[], Net]) -> Callable[[], Net]:
    """A builder of the same network with a steeper head: a divergence that is not lost in rounding."""

    def make() -> Net:
        net = build()
        with torch.no_grad():
            net.head.weight.mul_(30)
        return net

    return make
