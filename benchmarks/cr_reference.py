"""The protocol cr beside the verdicts of AutoAttack that are on record for the same images, network by network:

    python -m benchmarks.cr_reference --out docs/results/benchmarks/cr.json
    python -m benchmarks.cr_reference --networks cnn_a --eps 8/255 --rerun --out FILE

Passes are counted, and compare with those on record. Seconds do not, as they were taken on another day: `--rerun`
runs `autoattack` and the plan `fast`'s signs too, so that all times are of one run. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import clat
from benchmarks.foreign_networks import FILES, foreign_network
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.data import ImageSet
from clat.evaluation import Accuracy, Evaluation, evaluate_set
from clat.evaluation.fast import with_signs

RECORDS = Path(__file__).parents[1] / "docs" / "results" / "benchmarks"
SEEDS = (0, 1, 2)
T = TypeVar("T")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--networks", nargs="+", default=list(FILES), choices=list(FILES))
    options.add_argument("--eps", nargs="+", default=["2/255", "8/255"])
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--rerun", action="store_true", help="run autoattack, and look for the signs, here too")
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    claim_output(chosen.out)
    torch.set_num_threads(1)
    images = clat.load_split("cifar10", "test").take(chosen.images)
    results: dict[str, Any] = {}
    for name in chosen.networks:
        model = foreign_network(name)
        for eps in chosen.eps:
            run = partial(evaluated, model, images, eps)
            relaxed = [run("cr", seed) for seed in SEEDS]
            first, seconds = relaxed[0]
            row: dict[str, Any] = {
                "cr": side(first, seconds),
                "cr robust by seed": [int(result.robust.sum()) for result, _ in relaxed],
            }
            known = recorded(name, eps)
            if known is not None:
                row["on record"] = known
            row["autoattack"] = side(*run("autoattack")) if chosen.rerun else None
            if chosen.rerun:
                signs, spent = timed(partial(with_signs, model, images, first, torch.arange(len(images))))
                row["signs"] = {
                    "images": signs.signs.clean.n,
                    "suspicious": signs.signs.suspicious,
                    "passes": signs.signs.cost.forwards + signs.signs.cost.backwards,
                    "cpu_seconds": round(spent, 2),
                }
            row["cr / autoattack"] = ratios(row["cr"], row["autoattack"] or (known or {}).get("ours"), chosen.rerun)
            results[f"{name} {eps}"] = row
            print(name, eps, json.dumps(row, indent=1), flush=True)
    data = {
        "benchmark": "cr_reference",
        **vars(chosen),
        "results": results,
        "environment": describe_environment("cpu"),
    }
    write_json(chosen.out, data)


def evaluated(
    model: nn.Module, images: ImageSet, eps: str, protocol: str, seed: int = 0
) -> tuple[Evaluation, float]:
    return timed(lambda: evaluate_set(model, images, protocol=protocol, eps=eps, batch_size=500, seed=seed))


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the CPU seconds that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def side(result: Evaluation, seconds: float) -> dict[str, Any]:
    robust: Accuracy = result.robust_accuracy
    return {
        "robust": robust.correct,
        "n": robust.n,
        "passes": result.cost.forwards + result.cost.backwards,
        "passes an image": round((result.cost.forwards + result.cost.backwards) / robust.n, 1),
        "cpu_seconds": round(seconds, 2),
    }


def recorded(name: str, eps: str) -> dict[str, Any] | None:
    """AutoAttack's robust images and passes, ours and the official code's, None where there is no record."""
    file = RECORDS / f"autoattack_{name}_{eps.split('/')[0]}.json"
    if not file.exists():
        return None
    both = json.loads(file.read_text())["results"]["autoattack"]
    return {
        label: {
            "robust": both[key]["robust_accuracy"]["correct"],
            "passes": both[key]["forwards"] + both[key]["backwards"],
        }
        for label, key in (("ours", "float32"), ("official", "official"))
    }


def ratios(ours: dict[str, Any], theirs: dict[str, Any] | None, same_run: bool) -> dict[str, Any] | None:
    if theirs is None:
        return None
    found = {
        "points more robust": round(100 * (ours["robust"] - theirs["robust"]) / ours["n"], 2),
        "passes": round(ours["passes"] / theirs["passes"], 4),
    }
    if same_run:
        found["cpu seconds"] = round(ours["cpu_seconds"] / theirs["cpu_seconds"], 4)
    return found


if __name__ == "__main__":
    main()
