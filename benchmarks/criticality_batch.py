"""How often 10 images name the critical layers of 100: `python -m benchmarks.criticality_batch --weights FILE`.

Each draw takes 100 images and, apart from them, 10 others; it counts as agreeing if at least 3 of the 5 most
critical layers are the same (the paper's Table 10 says that 10 images suffice).
"""

from __future__ import annotations

import argparse
import json

import torch

import clat
from clat.core.environment import describe_environment
from clat.core.seeds import permutation
from clat.data import Loader
from clat.evaluation import Accuracy


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="resnet18")
    options.add_argument("--width", type=int)
    options.add_argument("--weights", required=True)
    options.add_argument("--data", default="cifar10")
    options.add_argument("--eps", default="8/255")
    options.add_argument("--draws", type=int, default=100)
    options.add_argument("--tap", default="output")
    options.add_argument("--normaliser", default="numel")
    chosen = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = clat.load_split(chosen.data, "test")
    model = clat.load_model(
        chosen.model, width=chosen.width, weights=chosen.weights, num_classes=images.num_classes
    )
    model = model.to(device).eval()
    shared = []
    for draw in range(chosen.draws):
        order = permutation(len(images), "batch size", draw)
        large, small = (_top(model, images.subset(part), chosen, device) for part in (order[:100], order[100:110]))
        shared.append(len(large & small))
    agreeing = Accuracy(sum(count >= 3 for count in shared), chosen.draws)
    result = {
        "benchmark": "criticality_batch",
        **vars(chosen),
        "share of draws with at least 3 of 5 in common": agreeing.to_dict(),
        "mean in common": sum(shared) / len(shared),
        "environment": describe_environment(device),
    }
    print(json.dumps(result, indent=1))


def _top(model: torch.nn.Module, images: clat.ImageSet, chosen: argparse.Namespace, device: str) -> set[str]:
    x, y = next(iter(Loader(images, len(images), device=device).epoch()))
    report = clat.measure_criticality(model, x, y, eps=chosen.eps, tap=chosen.tap, normaliser=chosen.normaliser)
    return set(report.top(5))


if __name__ == "__main__":
    main()
