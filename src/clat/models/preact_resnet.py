"""Pre-activation ResNet-18 with the CIFAR stem, in the four public variants, whose names and shapes these are.

Source: He et al. 2016, arXiv 1603.05027. None has BatchNorm in its shortcuts. They differ in two places:

| variant | projections read | between the last block and the pooling | used by |
| --- | --- | --- | --- |
| `preact-resnet18` | the activated input | nothing | the common CIFAR code |
| `preact-resnet18-bn` | the activated input | BatchNorm and ReLU | Rice et al. 2020, AWP, SCORE |
| `preact-resnet18-raw` | the raw input | nothing | Wong et al. 2020 (Fast-AT), GradAlign |
| `preact-resnet18-raw-bn` | the raw input | BatchNorm and ReLU | Li and Spratling 2023 (IDBH) |
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv1x1, conv3x3, global_mean, init_convolutions, pre_activation, stage


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, beside a shortcut; nothing follows the sum.

    A projecting shortcut reads the activated input, or with `raw_projection` the raw one; an identity shortcut
    the raw one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, raw_projection: bool = False) -> None:
        super().__init__()
        self.raw_projection = raw_projection
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride)) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.bn1, self.conv1, self.bn2, self.conv2)
        return pre_activation(x, *layers, project=self.shortcut, raw_projection=self.raw_projection)


class PreActResNet(nn.Module):
    """Four stages with width, 2, 4 and 8 times width channels, then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Stages 2 to 4 halve the
    map.

    Args:
        depths: Blocks of the four stages.
        num_classes: Logits of the head.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        final_norm: Whether BatchNorm and ReLU stand before the pooling.
        raw_projection: Whether projecting shortcuts read the raw input, see `PreActBlock`.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int = 10,
        width: int = 64,
        in_channels: int = 3,
        final_norm: bool = False,
        raw_projection: bool = False,
    ) -> None:
        super().__init__()
        block = partial(PreActBlock, raw_projection=raw_projection)
        self.normalize = Normalize()
        self.conv1 = conv3x3(in_channels, width)
        self.layer1 = stage(block, width, width, depths[0], stride=1)
        self.layer2 = stage(block, width, 2 * width, depths[1], stride=2)
        self.layer3 = stage(block, 2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = stage(block, 4 * width, 8 * width, depths[3], stride=2)
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.linear = nn.Linear(8 * width, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        if self.bn is not None:
            out = F.relu(self.bn(out))
        return self.linear(global_mean(out))


preact_resnet18 = partial(PreActResNet, depths=(2, 2, 2, 2))
preact_resnet18_bn = partial(preact_resnet18, final_norm=True)
preact_resnet18_raw = partial(preact_resnet18, raw_projection=True)
preact_resnet18_raw_bn = partial(preact_resnet18_raw, final_norm=True)
