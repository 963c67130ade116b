"""An adversarially trained network by others, on real images: the numbers it is known for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clat.data import load_split
from clat.evaluation import evaluate
from clat.models import Normalized

KNOWN_AUTOATTACK = 0.49  # of the first 200 test images at 2/255, by the official code


@pytest.fixture(scope="module")
def weights() -> Path:
    path = Path(os.environ.get("CLAT_DATA_DIR", "/nonexistent")) / ".." / "weights" / "sdp_cifar_cnn_a_adv.model"
    if not path.exists():
        pytest.skip("needs CLAT_DATA_DIR with cifar10, and the weights folder beside it")
    return path


@pytest.fixture(scope="module")
def test_images(weights: Path) -> tuple[Tensor, Tensor]:
    part = load_split("cifar10", "test", resident_limit=0, cache=False).take(200).load()
    assert isinstance(part.images, Tensor)
    return part.images.float() / 255, part.labels


@pytest.fixture(scope="module")
def network(weights: Path) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    state = torch.load(weights, weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return Normalized(net, (0.485, 0.456, 0.406), 0.225).eval()


def test_clean_and_pgd_accuracy(network: nn.Module, test_images: tuple[Tensor, Tensor]) -> None:
    result = evaluate(network, *test_images, protocol="pgd-20", eps="2/255", batch_size=100)
    assert result.clean_accuracy.value == 0.66
    assert KNOWN_AUTOATTACK <= result.robust_accuracy.value <= 0.56


def test_fewer_steps_and_less_eps_find_less(network: nn.Module, test_images: tuple[Tensor, Tensor]) -> None:
    x, y = test_images
    pgd20, fgsm, small, large = (
        evaluate(network, x[:100], y[:100], protocol=protocol, eps=eps).robust
        for protocol, eps in (("pgd-20", "2/255"), ("fgsm", "2/255"), ("pgd-20", "1/255"), ("pgd-20", "8/255"))
    )
    assert pgd20.sum() <= fgsm.sum()
    assert large.sum() < pgd20.sum() < small.sum()
