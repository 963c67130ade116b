"""Tiny networks and batches that several folders use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from clat.core.threat_model import ThreatModel
from clat.data import ImageSet
from clat.data.loader import Loader
from clat.models.resnet import resnet18
from clat.runtime import settings
from clat.runtime.callback import StageContext
from clat.runtime.engine import Engine, EngineConfig

# The same examples each time, and no deadline: how long one takes says more of the machine than of the code.
hypothesis.settings.register_profile("clat", deadline=None, derandomize=True)
hypothesis.settings.load_profile("clat")


def pytest_configure() -> None:
    """Give each of several pytest processes its part of the cores.

    Commands that a test starts have to compute with as many threads as the test does, whose numbers are compared
    bit for bit: they find the count in the environment.
    """
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        part = max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(part))))


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


@pytest.fixture(scope="session", autouse=True)
def plain_device() -> Iterator[None]:
    """A device without bfloat16 units, so that what is not said runs in float32 on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "computes_bfloat16", lambda device: False)
        yield


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


@pytest.fixture
def around() -> Callable[..., StageContext]:
    """around(model, epochs=..., images=..., batch_size=...): 12 images in batches of 4, 20 more held out."""

    def make(model: nn.Module, epochs: int = 1, images: int = 12, batch_size: int = 4, **more: Any) -> StageContext:
        generator = torch.Generator().manual_seed(2)
        pixels = torch.randint(0, 256, (images, 3, 8, 8), generator=generator).to(torch.uint8)
        train = ImageSet("noise", "train", ("a", "b", "c"), pixels, torch.arange(images) % 3)
        heldout = torch.rand(20, 3, 8, 8, generator=generator), torch.arange(20) % 3
        settings: dict[str, Any] = {
            "model": model,
            "engine": Engine(EngineConfig(device="cpu", channels_last=False)),
            "loader": Loader(train, batch_size, shuffle=True, drop_last=True),
            "heldout": heldout,
            "threat": ThreatModel.parse("0.05"),
            "seed": 0,
            "epochs": epochs,
            "batch_size": batch_size,
        }
        return StageContext(**settings | more)

    return make


@pytest.fixture
def context(around: Callable[..., StageContext], images: Tensor, labels: Tensor) -> Callable[..., StageContext]:
    """The same, with three batches of two of the images, which are held out too."""

    def build(model: nn.Module, **changes: Any) -> StageContext:
        pixels = (images * 255).round().to(torch.uint8)
        train = ImageSet("noise", "train", tuple("abcde"), pixels, labels)
        settings: dict[str, Any] = {
            "engine": Engine(EngineConfig(device="cpu")),
            "loader": Loader(train, 2, shuffle=True),
            "heldout": (images, labels),
            "threat": ThreatModel.parse("8/255"),
            "seed": 5,
            "epochs": 4,
            "batch_size": 2,
        }
        return around(model, **settings | changes)

    return build
