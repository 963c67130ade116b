"""What an augmentation costs beside the PGD-AT step that it feeds: `python -m benchmarks.augmentation`.

Each takes uint8 images of 32x32 to augmented ones, parameters drawn included; the step is PGD-AT with ten attack
steps on a ResNet-18, narrow by default.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from torch import Tensor

import clat
from clat.bench import interleaved
from clat.core.environment import describe_environment
from clat.core.seeds import generator
from clat.data import IDBH_VARIANTS, Augment, BatchAugment
from clat.objectives import PgdAT, Step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randint(256, (chosen.images, 3, 32, 32), generator=generator(0), dtype=torch.uint8).to(device)
    augments: dict[str, BatchAugment] = {"standard": Augment(), **IDBH_VARIANTS}
    candidates = {name: augmenting(augment, x) for name, augment in augments.items()}
    candidates["pgd-at step"] = pgd_at_step(x.float() / 255, chosen.width)
    medians = {name: timing.seconds for name, timing in interleaved(candidates, chosen.rounds).items()}
    result = {
        "benchmark": "augmentation",
        **vars(chosen),
        "seconds": medians,
        "images per second": {name: round(chosen.images / medians[name]) for name in augments},
        "augmentation / pgd-at step": {name: round(medians[name] / medians["pgd-at step"], 4) for name in augments},
        "environment": describe_environment(device),
    }
    print(json.dumps(result, indent=1))


def augmenting(augment: BatchAugment, x: Tensor) -> Callable[[], object]:
    return lambda: augment(x, augment.draw(len(x), generator(1)))


def pgd_at_step(x: Tensor, width: int) -> Callable[[], object]:
    """One training step as the training loop takes it: attack, loss, gradient, SGD."""
    torch.manual_seed(0)
    model = clat.load_model("resnet18", width=width).to(x.device).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.arange(len(x), device=x.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        PgdAT(steps=10).loss(model, x, y, Step(seed=0)).total.backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
