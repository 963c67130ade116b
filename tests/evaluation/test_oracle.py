"""Our attacks against the official AutoAttack code and torchattacks, on adversarially trained networks by others.

Both sides draw random starts of their own, so verdicts near the boundary may differ; how many may is what is asked.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat import modes
from clat.attacks.pgd_search import PgdSearch
from clat.attacks.search import run_search
from clat.data import load_split
from clat.evaluation import evaluate
from clat.models import Normalized

WEIGHTS = Path(os.environ.get("CLAT_DATA_DIR", "/nonexistent")).parent / "weights"
COUNT = 80


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


def cnn_a() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    state = torch.load(WEIGHTS / "sdp_cifar_cnn_a_adv.model", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return Normalized(net, (0.485, 0.456, 0.406), 0.225).eval()
