"""Runs that take a second: a tiny network, images that can be learned, and what is compared between runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import clat as package
from clat.criticality.selection import Selection
from clat.data import ImageSet
from clat.objectives import Clat, PgdAT
from clat.recipe.schedules import Schedule
from clat.recipe.schema import (
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    MonitorConfig,
    OptimizerConfig,
    Recipe,
    StageConfig,
)
from clat.training import stage
from clat.training.interrupt import Interrupted

CLASSES = ("a", "b", "c", "d")
TIMES = ("train_seconds", "images_per_second", "seconds")


class TinyNet(nn.Module):
    """Three convolutions, each with BatchNorm; dropout, so that the global random state matters."""

    def __init__(self, width: int = 4, classes: int = len(CLASSES), dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(bn(conv(x)))
        return self.head(self.dropout(x.mean((2, 3))))


def tiny(seed: int = 0, **settings: Any) -> TinyNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNet(**settings)


def image_set(n: int, split: str = "train", seed: int = 0) -> ImageSet:
    """Images of four colours with noise: learnable, and easily attacked."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(CLASSES)
    colours = torch.tensor([[90, 60, 60], [60, 90, 60], [60, 60, 90], [90, 90, 60]])
    noise = torch.randint(0, 120, (n, 3, 8, 8), generator=generator)
    return ImageSet("colours", split, CLASSES, (colours[labels][:, :, None, None] + noise).to(torch.uint8), labels)


def data(train: int = 80, test: int = 16) -> tuple[ImageSet, ImageSet]:
    """With the recipe below: 64 images to train on, four batches an epoch, 16 held out."""
    return image_set(train), image_set(test, "test", seed=1)


def recipe(**changes: Any) -> Recipe:
    """Two epochs of PGD-AT, two of CLAT with a selection each."""
    settings: dict[str, Any] = {
        "stages": (pgd_at(), clat()),
        "eps": "0.05",
        "batch_size": 16,
        "data": DataConfig(heldout=16, pad=1),
        "schedule": Schedule(lr=0.1),
        "optimizer": OptimizerConfig(weight_decay=0.01),
        "monitor": MonitorConfig(steps=1, num_samples=16),
        "evaluation": EvaluationConfig(protocol="fgsm", num_samples=8),
        "engine": EngineConfig(device="cpu", precision="32"),
    }
    return Recipe(**settings | changes)


def pgd_at(epochs: int = 2, **changes: Any) -> StageConfig:
    return StageConfig(**{"name": "pgd-at", "epochs": epochs, "objective": PgdAT(steps=1)} | changes)


def clat(epochs: int = 2, **changes: Any) -> StageConfig:
    selection = Selection(k=1, every=1, num_samples=8, steps=1)
    return StageConfig(
        **{"name": "clat", "epochs": epochs, "objective": Clat(steps=1), "selection": selection} | changes
    )


def train_and_stop(
    monkeypatch: Any, recipe: Recipe, out: Path, *, after_steps: int, own_model: bool = False
) -> None:
    """Train the tiny network, or the recipe's own, until SIGINT after so many steps."""
    original, count = stage.StageRunner.train_step, [0]

    def step(self: stage.StageRunner, *args: Any, **place: Any) -> Any:
        count[0] += 1
        loss = original(self, *args, **place)
        if count[0] == after_steps:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(stage.StageRunner, "train_step", step)
        try:
            package.train(recipe, out, model=None if own_model else tiny(), data=data(), quiet=True)
        except Interrupted:
            return
    raise AssertionError(f"the run ended before step {after_steps}")


def records(out: Path, event: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if event in (None, line["event"])]


def weights(out: Path, name: str) -> dict[str, Tensor]:
    return load_file(out / "weights" / f"{name}.safetensors")


def state(out: Path) -> dict[str, Tensor]:
    """Weights, buffers and momentum where the run stands."""
    return load_file(out / "state.safetensors")


def progress(out: Path) -> dict[str, Any]:
    with safe_open(out / "state.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["progress"])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outcome(out: Path) -> dict[str, Any]:
    """All that must not depend on whether a run was stopped: metrics but for times, weights, verdicts."""
    kept = ("best", "last", "robust_overfitting", "warnings")
    summary = json.loads((out / "summary.json").read_text())
    return {
        "metrics": [{k: v for k, v in record.items() if k not in TIMES} for record in records(out)],
        "summary": {key: summary[key] for key in kept},
        "evaluations": {
            file.stem: {k: json.loads(file.read_text())[k] for k in ("clean_accuracy", "robust_accuracy")}
            for file in (out / "evaluations").glob("*.json")
        },
        "criticality": {file.name: file.read_text() for file in (out / "criticality").glob("*.json")},
        "files": sorted(str(file.relative_to(out)) for file in out.rglob("*.safetensors")),
    }


def assert_same_run(one: Path, other: Path) -> None:
    assert outcome(one) == outcome(other)
    for name in [file.stem for file in (one / "weights").glob("*.safetensors")]:
        assert same(weights(one, name), weights(other, name)), f"weights/{name} differ"
    assert same(state(one), state(other)), "the final state differs"


def nearest_colour() -> nn.Module:
    """A classifier of the kit's images: the nearest of their four colours."""
    colours = torch.tensor([[90, 60, 60], [60, 90, 60], [60, 60, 90], [90, 90, 60]]) / 255 + 60 / 255
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
        net[4].weight.copy_(200 * colours)
        net[4].bias.copy_(-100 * colours.square().sum(1))
    return net
