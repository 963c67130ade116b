"""The memory layout of a run: channels last where the network runs in it, else the usual one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.data import ImageSet
from clat.recipe.schema import EngineConfig
from helpers import runs as kit


class Viewed(nn.Module):
    """Flattens by `view`, which needs the usual layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))


class Grouped(Viewed):
    """Its `view` runs on one image in any layout, and not on more."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        n, c, h, w = x.shape
        return self.head(x.view(2 * n, c // 2, h, w).reshape(n, -1))


class Auxiliary(kit.TinyNet):
    """Has a head that calls `view` in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found + 0 * self.other((2 * x).view(len(x), -1)) if self.training else found


class InDepth(nn.Module):
    """Has a three-dimensional convolution, whose weights cannot be laid out so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, (3, 3, 3)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x[:, None])).mean((2, 3, 4)))


def strided(images: ImageSet) -> ImageSet:
    return dataclasses.replace(images, images=images.pixels().contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("network", [Viewed, Grouped, Auxiliary, InDepth, kit.tiny])
def test_a_network_that_needs_the_usual_layout_is_trained_in_it(tmp_path, network, asked):
    seen: list[bool] = []
    said: list[str] = []

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        if module.training:
            seen.append(args[0].is_contiguous(memory_format=torch.channels_last))

    model = network()
    handle = model.register_forward_pre_hook(look)
    stages = (kit.pgd_at(epochs=1), kit.clat(epochs=1))
    recipe = kit.recipe(stages=stages, engine=EngineConfig(device="cpu", channels_last=asked))
    with listening(said.append):
        clat.train(recipe, tmp_path / "run", model=model, data=tuple(map(strided, kit.data())), quiet=True)
    handle.remove()
    usual = network is not kit.tiny
    assert seen[-1] is (asked and not usual)
    assert ["channels-last" in one for one in said] == [True] * (asked and usual)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_several_types_is_refused(tmp_path, kind):
    model = kit.tiny()
    model.conv2.to(kind)
    with pytest.raises(ClatError, match=r"parameter 'conv2\.\w+' is \w+, but training is in float32: use model.fl"):
        clat.train(kit.recipe(), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()
