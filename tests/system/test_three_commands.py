"""The README's three commands: from a timm network and a folder of images to a hardened network and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import clat as package
from helpers.libraries import need

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Digits as a folder of images, a folder a class."""
    for split, number in (("train", 300), ("test", 60)):
        digits = package.load_split("digits", split).take(number)
        for i, (image, label) in enumerate(zip(digits.images, digits.labels.tolist(), strict=True)):
            folder = tmp_path / "photos" / split / digits.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def checkpoint(photos: Path, tmp_path: Path) -> Path:
    """What timm's own training script would leave."""
    need("timm")
    torch.manual_seed(0)
    model = package.load_model("timm:test_resnet", num_classes=10)
    assert isinstance(model.net, nn.Module)
    train = package.load_split(photos, "train")
    x, y = train.images.float() / 255, train.labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model.train()(x[rows]), y[rows]).backward()
            optimizer.step()
    torch.save({"epoch": 8, "arch": "test_resnet", "state_dict": model.net.state_dict()}, tmp_path / "net.pth.tar")
    return tmp_path / "net.pth.tar"


def test_from_a_timm_network_and_a_folder_to_a_hardened_one(clat: Any, photos, checkpoint, tmp_path: Path) -> None:
    words = ["--model", "timm:test_resnet", "--data", photos]
    hard = tmp_path / "runs" / "hard"
    done = clat(
        "harden", *words, "--weights", checkpoint, "--eps", "0.1", "--epochs", 1, "--objective", "n-fgsm",
        "--num-samples", 40, "--batch-size", 50, "--out", hard,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (hard / "report.html").is_file()
    card = ["--card", hard / "README.md", "--out", tmp_path / "hardened"]
    done = clat("export", *words, "--weights", hard / "model.safetensors", *card)
    assert done.code == 0, done.err
    model = package.from_pretrained(tmp_path / "hardened")
    test = package.load_split(photos, "test").images[:4].float() / 255
    expected = package.load_model("timm:test_resnet", num_classes=10, weights=hard / "model.safetensors").eval()
    assert torch.equal(model(test), expected(test))
    assert "A hardened image classifier" in (tmp_path / "hardened" / "README.md").read_text()
