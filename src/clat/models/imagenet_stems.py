"""DenseNet-121 and the WideResNets with the ImageNet stem: a 7x7 convolution with stride 2, then max-pooling.

Source of the stem: He et al. 2016, arXiv 1512.03385, which DenseNet shares (Huang et al. 2017, arXiv 1608.06993).
No paper defines a WideResNet-34-10 for ImageNet; here only its stem changes. Other names are those of the CIFAR
networks.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from clat.models.densenet import DenseNet
from clat.models.parts import init_convolutions
from clat.models.wide_resnet import STEM_CHANNELS, WideResNet


class Stem(nn.Sequential):
    """A 7x7 convolution with stride 2, BatchNorm, ReLU, and 3x3 max-pooling with stride 2.

    (N, in_channels, H, W) to (N, channels, H / 4, W / 4), rounded up.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        init_convolutions(self)


class ImageNetDenseNet(DenseNet):
    """See `clat.models.densenet.DenseNet`; the map is H / 32 at the end."""

    def __init__(
        self, *, depths: tuple[int, ...], num_classes: int = 1000, width: int = 32, in_channels: int = 3
    ) -> None:
        super().__init__(depths=depths, num_classes=num_classes, width=width, in_channels=in_channels)
        self.conv1 = Stem(in_channels, 2 * width)


class ImageNetWideResNet(WideResNet):
    """See `clat.models.wide_resnet.WideResNet`; the map is H / 16 at the end."""

    def __init__(
        self, *, depths: tuple[int, ...], num_classes: int = 1000, width: int = 160, in_channels: int = 3
    ) -> None:
        super().__init__(depths=depths, num_classes=num_classes, width=width, in_channels=in_channels)
        self.conv1 = Stem(in_channels, STEM_CHANNELS)


imagenet_densenet121 = partial(ImageNetDenseNet, depths=(6, 12, 24, 16))
imagenet_wrn_34_10 = partial(ImageNetWideResNet, depths=(5, 5, 5))
imagenet_wrn_70_16 = partial(ImageNetWideResNet, depths=(11, 11, 11), width=256)
