"""Networks as users bring them: with parts under two names, shared weights, weights that hooks compute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.data import ImageSet


class Net(nn.Module):
    """conv c1, BatchNorm, then what `middle` runs, and a head over three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c2, self.c3 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def middle(self, x: Tensor) -> Tensor:
        return F.relu(self.c3(F.relu(self.c2(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(F.relu(self.bn(self.c1(x)))).mean((2, 3)))


class TwoNames(Net):
    """One module under two names, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.c2

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(F.relu(self.again(x)))


class OneBlockThrice(Net):
    """A list that holds one module three times."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.c2] * 3)
        del self.c2

    def middle(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + F.relu(block(x))
        return F.relu(self.c3(x))


class SharedWeight(Net):
    """Two modules that share one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.c3.weight = self.c2.weight


class SharedNorm(Net):
    """One BatchNorm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.bn_again = self.bn

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(self.bn_again(x))


TIED = {kind.__name__: kind for kind in (TwoNames, OneBlockThrice, SharedWeight, SharedNorm)}


def built(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """One and the same network a seed, in evaluation mode, lively enough that predictions differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = kind()
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 1.5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("head.weight"):
                parameter.mul_(10)
    return net.eval()


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """build(kind, seed=0), see `built`; `kind` None: the plain network."""
    return lambda kind=None, seed=0: built(kind or Net, seed)


@pytest.fixture
def plain_kind() -> type[nn.Module]:
    """The class of the plain network, for kinds that a test makes from it."""
    return Net


@pytest.fixture(params=TIED)
def tied(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    """A builder of a network with something under two names; tied(seed)."""
    return lambda seed=0: built(TIED[request.param], seed)


@pytest.fixture
def x() -> Tensor:
    """(6, 3, 8, 8) in [0, 1], in sixteenths, which every floating type holds exactly."""
    return torch.randint(0, 17, (6, 3, 8, 8), generator=torch.Generator().manual_seed(1)) / 16


@pytest.fixture
def y(x: Tensor) -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def noise_sets() -> tuple[ImageSet, ImageSet]:
    """18 images to train on and 6 to test, three classes."""
    generator = torch.Generator().manual_seed(2)

    def noise(n: int, split: str) -> ImageSet:
        pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=generator).to(torch.uint8)
        return ImageSet("noise", split, ("a", "b", "c"), pixels, torch.arange(n) % 3)

    return noise(18, "train"), noise(6, "test")
