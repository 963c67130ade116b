"""What a training step of each candidate of a hardening costs, beside PGD-AT's of ten steps:

    python -m benchmarks.hardening_cost > docs/results/benchmarks/hardening_cost.json

All steps take turns within one run, on one thread; ratios of CPU seconds. `clat study hardening` gives each
candidate the epochs that these ratios allow.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack

import torch

import clat
from clat.bench.repeated_step import repeated_step
from clat.bench.timing import interleaved
from clat.core.environment import describe_environment
from clat.hardening.candidates import CANDIDATES
from clat.hardening.recipe import harden_stages
from clat.recipe.toml import build_recipe
from clat.runtime.engine import Engine, EngineConfig


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="resnet18")
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    model = clat.load_model(chosen.model, num_classes=10, width=chosen.width)
    images = clat.load_split("cifar10", "train").take(chosen.batch_size)
    config = EngineConfig(device="cpu", precision="auto")
    with ExitStack() as stack:
        steps = {}
        for name in CANDIDATES:
            stage = build_recipe({"eps": "8/255", "stages": harden_stages(name, 1)}).stages[0]
            step = stack.enter_context(repeated_step(model, images, stage, Engine(config), config))
            steps[name] = step.run_step
        times = interleaved(steps, chosen.rounds)
    base = times["pgd-10"]
    rows = {
        name: {
            "seconds": time.seconds,
            "cpu seconds": time.cpu_seconds,
            "to pgd-10": time.cpu_seconds / base.cpu_seconds,
        }
        for name, time in times.items()
    }
    data = {"benchmark": "hardening_cost", **vars(chosen), "rows": rows, "environment": describe_environment("cpu")}
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
