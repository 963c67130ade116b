"""DenseNet-121 with the CIFAR stem: a 3x3 convolution with stride 1 and no max-pooling.

Source: Huang et al. 2017, arXiv 1608.06993 (bottleneck and compression, "DenseNet-BC"). Names and shapes are
those of the public CIFAR checkpoints (dense1..4, trans1..3, bn, linear).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv1x1, conv3x3, global_mean, init_convolutions


class DenseLayer(nn.Module):
    """Adds `growth` channels: (N, C, H, W) to (N, growth + C, H, W), through a bottleneck of 4 * growth.

    The new channels come first. Order matters: the weights of every later layer were learned for it.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv1x1(inputs, 4 * growth)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv3x3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat([out, x], dim=1)


class Transition(nn.Module):
    """Halves the channels by a 1x1 convolution and the map by 2x2 averaging.

    An odd border is averaged over the pixels that exist, so that no map ever vanishes; even sizes have none.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = conv1x1(inputs, inputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), kernel_size=2, ceil_mode=True)


def dense_block(inputs: int, growth: int, count: int) -> tuple[nn.Sequential, int]:
    """Return dense layers in a row, each of which reads what all before it put out.

    Args:
        inputs: Channels that come in.
        growth: Channels that each layer adds.
        count: How many layers there are.

    Returns:
        The layers, and the number of channels that come out.
    """
    layers = [DenseLayer(inputs + i * growth, growth) for i in range(count)]
    return nn.Sequential(*layers), inputs + count * growth


class DenseNet(nn.Module):
    """Four dense blocks with a transition after each of the first three, then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Each transition halves the
    map.

    Args:
        depths: How many layers each of the four blocks has.
        num_classes: Logits of the head.
        width: The growth rate; the stem has twice as many channels.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int = 10,
        width: int = 32,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.conv1: nn.Module = conv3x3(in_channels, 2 * width)
        self.dense1, channels = dense_block(2 * width, width, depths[0])
        self.trans1 = Transition(channels)
        self.dense2, channels = dense_block(channels // 2, width, depths[1])
        self.trans2 = Transition(channels)
        self.dense3, channels = dense_block(channels // 2, width, depths[2])
        self.trans3 = Transition(channels)
        self.dense4, channels = dense_block(channels // 2, width, depths[3])
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))
        out = self.trans1(self.dense1(out))
        out = self.trans2(self.dense2(out))
        out = self.trans3(self.dense3(out))
        out = F.relu(self.bn(self.dense4(out)))
        return self.linear(global_mean(out))


densenet121 = partial(DenseNet, depths=(6, 12, 24, 16))
