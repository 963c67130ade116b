"""What a criticality measurement costs beside the PGD-10 attack inside it: `python -m benchmarks.criticality_cost`.

Counted in passes the floor is 22/20: ten steps forward and back, and one more forward over x and x'.
"""

from __future__ import annotations

import argparse
import json

import torch

import clat
from clat.bench import interleaved
from clat.core.environment import describe_environment


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="resnet18")
    options.add_argument("--width", type=int)
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = clat.load_model(chosen.model, width=chosen.width).to(device).eval()
    x = torch.rand(chosen.images, 3, 32, 32, device=device)
    y = torch.randint(10, (chosen.images,), device=device)
    times = interleaved(
        {
            "pgd-10": lambda: clat.attacks.pgd(model, x, y, eps="8/255", alpha="2/255", steps=10, seed=0),
            "criticality": lambda: clat.measure_criticality(model, x, y, eps="8/255", steps=10),
        },
        chosen.rounds,
    )
    medians = {name: timing.seconds for name, timing in times.items()}
    result = {
        "benchmark": "criticality_cost",
        **vars(chosen),
        "seconds": medians,
        "criticality / pgd-10": round(medians["criticality"] / medians["pgd-10"], 3),
        "environment": describe_environment(device),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
