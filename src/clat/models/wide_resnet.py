"""WideResNet-34-10 and WideResNet-70-16 as the TRADES code has them (ReLU, no dropout, projection by 1x1).

Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146; names and shapes of the TRADES, MART and AWP
checkpoints (block1..3.layer, convShortcut, fc).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv1x1, conv3x3, global_mean, init_convolutions, pre_activation, stage

STEM_CHANNELS = 16


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, beside a shortcut.

    Where the channels change, the shortcut is a 1x1 convolution of the activated input; else it is the raw
    input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.convShortcut = conv1x1(inputs, outputs, stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        return pre_activation(x, self.bn1, self.conv1, self.bn2, self.conv2, project=self.convShortcut)


class Group(nn.Module):
    """Blocks of one width under the name `layer`, the nesting that the checkpoints have."""

    def __init__(self, inputs: int, outputs: int, count: int, stride: int) -> None:
        super().__init__()
        self.layer = stage(WideBlock, inputs, outputs, count, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Three groups of blocks with width, 2 and 4 times width channels, then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Groups 2 and 3 halve the
    map.

    Some published checkpoints carry a second copy of the first group, `sub_block1`, which no forward ever used.
    Entries of that name are dropped when a state dict is loaded (see `unused_entries`) rather than built.

    Args:
        depths: Blocks of each group, (depth - 4) / 6 in the published networks.
        num_classes: Logits of the head.
        width: Channels of the first group, 16 times the widening factor; 160 in WRN-34-10.
        in_channels: Channels of the images.
    """

    unused_entries = ("sub_block1.",)
    """Prefixes of state-dict names that mean nothing to this network and are skipped on loading."""

    def __init__(
        self, *, depths: tuple[int, ...], num_classes: int = 10, width: int = 160, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.conv1: nn.Module = conv3x3(in_channels, STEM_CHANNELS)
        self.block1 = Group(STEM_CHANNELS, width, depths[0], stride=1)
        self.block2 = Group(width, 2 * width, depths[1], stride=2)
        self.block3 = Group(2 * width, 4 * width, depths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)
        init_convolutions(self)
        self.register_load_state_dict_pre_hook(_drop_unused)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))
        out = self.block3(self.block2(self.block1(out)))
        return self.fc(global_mean(F.relu(self.bn1(out))))


def _drop_unused(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Drop unused entries on loading. `state` is torch's own shallow copy, never the caller's dict."""
    unused = tuple(prefix + name for name in WideResNet.unused_entries)
    for name in [name for name in state if name.startswith(unused)]:
        del state[name]


wrn_34_10 = partial(WideResNet, depths=(5, 5, 5))
wrn_70_16 = partial(WideResNet, depths=(11, 11, 11), width=256)
