"""The WideResNets of the DeepMind line (WRN-28-10, WRN-70-16 with Swish or SiLU) and RaWRN-70-16.

Sources: Gowal et al. 2020 and 2021, Rebuffi et al. 2021, Pang et al. 2022 and Wang et al. 2023 (arXiv 2010.03593,
2110.09468, 2103.01946, 2202.10103, 2302.04638) share the layout init_conv, layer.N.block.M, batchnorm, logits; they
come from JAX, so a stride-2 convolution pads as "SAME" does there. RaWRN (Peng et al. 2023, arXiv 2308.16258) keeps
the layout, changes stem, depths and widths, and adds squeeze-and-excitation. BatchNorm momentum is 0.01 in
training, as in the code of Wang et al. Published weights expect normalised images: normalize = "cifar10" and
"cifar100" are exactly their constants.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import (
    Activation,
    activation_named,
    conv1x1,
    conv3x3,
    global_mean,
    init_convolutions,
    pre_activation,
    stage,
)

BN_MOMENTUM = 0.01


class SameConv(nn.Conv2d):
    """A 3x3 convolution of stride 2 with JAX's "SAME" padding, which for an even size pads the far border only.

    The windows sit one pixel further than those of padding 1. Output ceil(H / 2), ceil(W / 2).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2] % 2, x.shape[-1] % 2
        return super().forward(F.pad(x, (width, 1, height, 1)))


class SqueezeExcitation(nn.Module):
    """Scale each channel by sigmoid(fc2(relu(fc1(mean over positions)))); Hu et al. 2018, arXiv 1709.01507."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


class DMBlock(nn.Module):
    """A pre-activation block; `squeeze`: hidden units of its squeeze-and-excitation per channel, 0: it has none."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, activation: Activation = F.relu, squeeze: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.batchnorm_0 = nn.BatchNorm2d(inputs, momentum=BN_MOMENTUM)
        self.conv_0 = conv3x3(inputs, outputs) if stride == 1 else SameConv(inputs, outputs)
        self.batchnorm_1 = nn.BatchNorm2d(outputs, momentum=BN_MOMENTUM)
        self.conv_1 = conv3x3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.shortcut = conv1x1(inputs, outputs, stride) if projects else None
        self.se = SqueezeExcitation(outputs, max(1, round(squeeze * outputs))) if squeeze else None

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.batchnorm_0, self.conv_0, self.batchnorm_1, self.conv_1)
        return pre_activation(x, *layers, project=self.shortcut, activation=self.activation, gate=self.se)


class DMGroup(nn.Module):
    """Blocks of one width under the name `block`, the nesting that the checkpoints have."""

    def __init__(self, inputs: int, outputs: int, count: int, stride: int, **options: Any) -> None:
        super().__init__()
        self.block = stage(partial(DMBlock, **options), inputs, outputs, count, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DMWideResNet(nn.Module):
    """Three groups of blocks with width, 2 and 4 times width channels, then a linear head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Groups 2 and 3 halve the
    map.

    Args:
        depths: Blocks of each group, (depth - 4) / 6 in WRN-depth.
        num_classes: Logits of the head.
        width: Channels of the first group, 16 times the widening factor.
        in_channels: Channels of the images.
        activation: A name in `clat.models.parts.ACTIVATIONS`.
        stem: Channels of the first convolution.
        squeeze: Hidden units of squeeze-and-excitation per channel of a block; 0 leaves it out.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int = 10,
        width: int = 160,
        in_channels: int = 3,
        activation: str = "silu",
        stem: int = 16,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation_named(activation)
        group = partial(DMGroup, activation=self.activation, squeeze=squeeze)
        self.normalize = Normalize()
        self.init_conv = conv3x3(in_channels, stem)
        self.layer = nn.Sequential(
            group(stem, width, depths[0], stride=1),
            group(width, 2 * width, depths[1], stride=2),
            group(2 * width, 4 * width, depths[2], stride=2),
        )
        self.batchnorm = nn.BatchNorm2d(4 * width, momentum=BN_MOMENTUM)
        self.logits = nn.Linear(4 * width, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.init_conv(self.normalize(x)))
        return self.logits(global_mean(self.activation(self.batchnorm(out))))


def ra_wide_resnet(
    *,
    depths: tuple[int, ...],
    num_classes: int = 10,
    width: int = 216,
    in_channels: int = 3,
    activation: str = "silu",
) -> DMWideResNet:
    """Return a RaWRN: squeeze-and-excitation of a quarter of the channels, a stem of 4/9 of the width (96 of 216).

    Args:
        depths: Blocks of each of the three groups.
        num_classes: Logits of the head.
        width: Channels of the first group.
        in_channels: Channels of the images.
        activation: A name in `clat.models.parts.ACTIVATIONS`.

    Returns:
        The network, images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    return DMWideResNet(
        depths=depths,
        num_classes=num_classes,
        width=width,
        in_channels=in_channels,
        activation=activation,
        stem=max(1, 4 * width // 9),
        squeeze=0.25,
    )


dm_wrn_28_10 = partial(DMWideResNet, depths=(4, 4, 4))
dm_wrn_70_16 = partial(DMWideResNet, depths=(11, 11, 11), width=256)
ra_wrn_70_16 = partial(ra_wide_resnet, depths=(30, 31, 10))
