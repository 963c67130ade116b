"""The two adversarially trained networks by others in shared/weights, on which we and the official code must agree.

From Verified-Intelligence/alpha-beta-CROWN (BSD-3-Clause); `README.md` beside the weights says what they are.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from clat.models import Normalized, load_weights

FILES = {"cnn_a": "sdp_cifar_cnn_a_adv.model", "resnet4b": "cifar10_resnet_resnet4b.pth"}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + self.shortcut(x))


class ResNet4b(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 32, 2), Block(32, 32, 1))
        self.linear1 = nn.Linear(512, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer2(self.layer1(F.relu(self.conv1(x))))
        logits: Tensor = self.linear2(F.relu(self.linear1(out.flatten(1))))
        return logits


def weights_folder() -> Path:
    return Path(os.environ.get("CLAT_DATA_DIR", "")).parent / "weights"


def foreign_network(name: str) -> nn.Module:
    """`name`: a key of FILES. In evaluation mode, for images in [0, 1]."""
    if name == "cnn_a":
        net: nn.Module = nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
        )
        mean, std = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)
    else:
        net = ResNet4b()
        mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    load_weights(net, weights_folder() / FILES[name])
    return Normalized(net, mean, std).eval()
