"""VGG-19 with BatchNorm for CIFAR, with its usual three-layer head or with one linear layer.

Source: Simonyan and Zisserman 2015, arXiv 1409.1556, configuration E. The three-layer head
(512-4096-4096-classes) is the network of the paper's 39.3 M parameters; the one-layer head is the other
widespread CIFAR variant (20 M). Names and shapes are those of the public checkpoints (features.N,
classifier).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from clat.models.normalize import Normalize
from clat.models.parts import conv3x3, global_mean, init_convolutions

VGG19 = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
"""Per stage: channels in multiples of the width, and how many convolutions."""


def convolutions(in_channels: int, width: int) -> nn.Sequential:
    """Return the convolutions with bias, BatchNorm and ReLU, and a 2x2 max-pooling after each of five stages.

    Pooling keeps an odd border (ceil mode), so that maps smaller than 32x32 do not vanish; even sizes have none.

    Args:
        in_channels: Channels of the images.
        width: Channels of the first stage.

    Returns:
        The modules, (N, in_channels, H, W) to (N, 8 * width, ceil(H / 32), ceil(W / 32)).
    """
    modules: list[nn.Module] = []
    channels = in_channels
    for factor, count in VGG19:
        for _ in range(count):
            modules += [
                conv3x3(channels, factor * width, bias=True),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(),
            ]
            channels = factor * width
        modules.append(nn.MaxPool2d(kernel_size=2, ceil_mode=True))
    return nn.Sequential(*modules)


def mlp_head(inputs: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Return two hidden layers with ReLU and dropout 0.5, then the logits.

    Args:
        inputs: Features of an image.
        hidden: Units of each hidden layer.
        num_classes: Logits.

    Returns:
        The modules, (N, inputs) to (N, num_classes).
    """
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
        nn.Linear(hidden, num_classes),
    )


class VGG(nn.Module):
    """Sixteen convolutions in five stages, then the head.

    Input (N, in_channels, H, W) in [0, 1], any H and W; output (N, num_classes) logits. Five poolings take 32x32 to
    1x1; whatever map a larger image leaves is averaged.

    Args:
        linear_head: Whether the head is one linear layer, and not three.
        num_classes: Logits of the head.
        width: Channels of the first stage; the hidden layers of the three-layer head have 64 times as many units.
        in_channels: Channels of the images.
    """

    def __init__(
        self, *, linear_head: bool = False, num_classes: int = 10, width: int = 64, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.features = convolutions(in_channels, width)
        self.classifier = (
            nn.Linear(8 * width, num_classes) if linear_head else mlp_head(8 * width, 64 * width, num_classes)
        )
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(global_mean(self.features(self.normalize(x))))


vgg19 = partial(VGG)
vgg19_linear = partial(VGG, linear_head=True)
