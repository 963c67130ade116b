"""ResNet-18 and ResNet-50 with the CIFAR stem: a 3x3 convolution with stride 1 and no max-pooling.

Source: He et al. 2016, arXiv 1512.03385. Parameter names are those of the widespread CIFAR checkpoints
(conv1, bn1, layer1..4, shortcut, linear), so that these load without renaming.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv1x1, conv3x3, global_mean, init_convolutions, stage


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a block's shortcut: empty (the identity) where shapes agree, else a 1x1 convolution and BatchNorm.

    Args:
        inputs: Channels that come in.
        outputs: Channels that come out.
        stride: The block's.

    Returns:
        The modules, (N, inputs, H, W) to the shape of the block's residual.
    """
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A residual beside a shortcut; the ReLU comes after the sum."""

    shortcut: nn.Module

    def residual(self, x: Tensor) -> Tensor:
        """Return what the block adds to its shortcut.

        Args:
            x: The input, (N, C_in, H, W).

        Returns:
            The residual, (N, C_out, H', W').
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class BasicBlock(Block):
    """Two 3x3 convolutions. Stride sits in the first."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out))


class Bottleneck(Block):
    """1x1, 3x3, 1x1 convolutions with a quarter of the channels inside. Stride sits in the 3x3 one."""

    expansion = 4

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // self.expansion
        self.conv1 = conv1x1(inputs, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


class ResNet(nn.Module):
    """Four stages with width, 2, 4 and 8 times width channels (times 4 in bottlenecks), then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Stages 2 to 4 halve the
    map.

    Args:
        block: The kind of block.
        depths: Blocks of the four stages.
        num_classes: Logits of the head.
        width: Channels of the stem.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        *,
        depths: tuple[int, ...],
        num_classes: int = 10,
        width: int = 64,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        wide = [width * factor * block.expansion for factor in (1, 2, 4, 8)]
        self.normalize = Normalize()
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(block, width, wide[0], depths[0], stride=1)
        self.layer2 = stage(block, wide[0], wide[1], depths[1], stride=2)
        self.layer3 = stage(block, wide[1], wide[2], depths[2], stride=2)
        self.layer4 = stage(block, wide[2], wide[3], depths[3], stride=2)
        self.linear = nn.Linear(wide[3], num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(self.normalize(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(global_mean(out))


resnet18 = partial(ResNet, BasicBlock, depths=(2, 2, 2, 2))
resnet50 = partial(ResNet, Bottleneck, depths=(3, 4, 6, 3))
