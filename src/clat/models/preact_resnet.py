"""Pre-activation ResNet-18 with the CIFAR stem, the network of the Fast-AT and AWP lines of work.

Source: He et al. 2016, arXiv 1603.05027. The public CIFAR variant, whose names and shapes these are, has
neither BatchNorm nor ReLU between the last block and the pooling, and no BatchNorm in its shortcuts.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv1x1, conv3x3, global_mean, init_convolutions, stage


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, beside a shortcut; nothing follows the sum.

    A projecting shortcut reads the activated input, an identity shortcut the raw one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride)) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nn.Module):
    """Four stages with width, 2, 4 and 8 times width channels, then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Stages 2 to 4 halve
    the map.
    """

    def __init__(
        self,
        counts: tuple[int, int, int, int],
        *,
        num_classes: int = 10,
        width: int = 64,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.conv1 = conv3x3(in_channels, width)
        self.layer1 = stage(PreActBlock, width, width, counts[0], stride=1)
        self.layer2 = stage(PreActBlock, width, 2 * width, counts[1], stride=2)
        self.layer3 = stage(PreActBlock, 2 * width, 4 * width, counts[2], stride=2)
        self.layer4 = stage(PreActBlock, 4 * width, 8 * width, counts[3], stride=2)
        self.linear = nn.Linear(8 * width, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(global_mean(out))


preact_resnet18 = partial(PreActResNet, (2, 2, 2, 2))
