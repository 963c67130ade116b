"""ResNet-18 and ResNet-50 with the ImageNet stem: a 7x7 convolution with stride 2, then max-pooling.

Source: He et al. 2016, arXiv 1512.03385, with the stride in the 3x3 convolution of a bottleneck. Parameter names
are torchvision's (downsample, fc), which robust ImageNet checkpoints have too.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import global_mean, init_convolutions, stage
from clat.models.resnet import BasicBlock, Block, Bottleneck


class _Downsample(Block):
    """A block of the CIFAR networks whose shortcut has torchvision's name."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.downsample = self.shortcut
        del self.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.downsample(x))


class ImageNetBasicBlock(_Downsample, BasicBlock):
    """See `clat.models.resnet.BasicBlock`."""


class ImageNetBottleneck(_Downsample, Bottleneck):
    """See `clat.models.resnet.Bottleneck`."""


class ImageNetResNet(nn.Module):
    """Four stages with width, 2, 4 and 8 times width channels (times 4 in bottlenecks), then a linear head.

    Input (N, in_channels, H, W) in [0, 1]; output (N, num_classes) logits. The map is H / 32 at the end.

    Args:
        block: The kind of block.
        depths: Blocks of the four stages.
        num_classes: Logits of the head.
        width: Channels of the stem.
        in_channels: Channels of the images.
        input_size: Enlarge (or shrink) images of another size to so many pixels a side first, bilinearly, so that a
            network for 224 pixels takes small images and an attack changes these; None takes them as they are.
    """

    def __init__(
        self,
        block: type[ImageNetBasicBlock] | type[ImageNetBottleneck],
        *,
        depths: tuple[int, ...],
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        wide = [width * factor * block.expansion for factor in (1, 2, 4, 8)]
        self.input_size = input_size
        self.normalize = Normalize()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(block, width, wide[0], depths[0], stride=1)
        self.layer2 = stage(block, wide[0], wide[1], depths[1], stride=2)
        self.layer3 = stage(block, wide[1], wide[2], depths[2], stride=2)
        self.layer4 = stage(block, wide[2], wide[3], depths[3], stride=2)
        self.fc = nn.Linear(wide[3], num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        size = self.input_size
        if size is not None and x.shape[2:] != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        out = self.maxpool(F.relu(self.bn1(self.conv1(self.normalize(x)))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(global_mean(out))


imagenet_resnet18 = partial(ImageNetResNet, ImageNetBasicBlock, depths=(2, 2, 2, 2))
imagenet_resnet50 = partial(ImageNetResNet, ImageNetBottleneck, depths=(3, 4, 6, 3))
