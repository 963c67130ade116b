"""How often the interval of autoattack-sampled holds what full AutoAttack found, and what it costs:

    python -m benchmarks.sampled_coverage --out docs/results/benchmarks/sampled_coverage.json

From the full verdicts on record (docs/results): what APGD-CE alone left, or APGD-CE and APGD-T, stands for a
screen, and the rest of AutoAttack for what it missed. Samples are drawn again and again; the share of draws whose
lower bound is at most the full verdict is the coverage, simulated and exact, and the worst of all networks is what
counts. APGD-CE alone misses points, as a screen does on a network that it is too optimistic on.

Widths and costs are for `--images` images with the networks' shares of robust ones, from the passes that attacks
make on an image that withstands them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.evaluation.effort import FOOLED, survivor_passes
from clat.evaluation.finite import most_in_set, sample_needed
from clat.evaluation.protocols import PROTOCOLS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SCREENS = {"apgd-ce": 0, "apgd-t": 1}
"""What stands for a screen: the accuracy left after this attack of the record."""
CR_PASSES = 140
"""Of an image under cr, measured: docs/results/benchmarks/cr.json."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=1000, help="of widths and costs (default: 1000)")
    options.add_argument("--draws", type=int, default=20_000)
    options.add_argument("--width", type=float, default=1.0, help="aimed at, in points (default: 1)")
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    claim_output(chosen.out)
    records = [record for file in sorted(RESULTS.rglob("*.json")) if (record := full_verdict(file)) is not None]
    random = np.random.default_rng(0)
    coverage = {
        screen: [covered(record, position, chosen, random) for record in records]
        for screen, position in SCREENS.items()
    }
    costs = [widths_and_costs(record, chosen) for record in records]
    data = {
        "benchmark": "sampled_coverage",
        **vars(chosen),
        "records": len(records),
        "coverage": {
            screen: {
                "worst, simulated": min(row[0] for row in found),
                "worst, exact": round(min(row[1] for row in found), 4),
                "mean, simulated": round(statistics.fmean(row[0] for row in found), 4),
                "images missed by the screen": " ".join(str(row[2]) for row in found),
            }
            for screen, found in coverage.items()
        },
        "median": {key: round(statistics.median(row[key] for row in costs), 4) for key in costs[0]},
        "largest": {key: round(max(row[key] for row in costs), 4) for key in costs[0]},
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(data, indent=1))
    write_json(chosen.out, data)


def full_verdict(file: Path) -> dict[str, Any] | None:
    """An evaluation under the full protocol, None if the file is something else."""
    data = json.loads(file.read_text())
    if not isinstance(data, dict) or data.get("what") != "evaluation":
        return None
    return data if data["protocol"]["hash"] == PROTOCOLS["autoattack"].hash else None


def covered(
    record: dict[str, Any], position: int, chosen: argparse.Namespace, random: np.random.Generator
) -> tuple[float, float, int]:
    """The share of draws whose bound holds, simulated and exact, and how many images the screen missed."""
    left = record["per_attack"][position]["robust_accuracy"]["correct"]
    robust = record["robust_accuracy"]["correct"]
    n = record["robust_accuracy"]["n"]
    # A wider interval than is asked for of 1,000 images, so that it is a sample that is drawn and not all.
    size = sample_needed(left, max(1, round(3 * chosen.width * n / 100)))
    bounds = np.array([left - most_in_set(left, size, seen) for seen in range(size + 1)])
    fell = random.hypergeometric(left - robust, robust, size, chosen.draws) if size else np.zeros(chosen.draws, int)
    likely = hypergeom.pmf(np.arange(size + 1), left, left - robust, size)
    return float(np.mean(bounds[fell] <= robust)), float(likely[bounds <= robust].sum()), left - robust


def widths_and_costs(record: dict[str, Any], chosen: argparse.Namespace) -> dict[str, float]:
    """For each screen the part of full AutoAttack's passes, and the width in points if nothing falls."""
    n = chosen.images
    left = round(record["robust_accuracy"]["value"] * n)
    clean = round(record["clean_accuracy"]["value"] * n)
    size = sample_needed(left, int(chosen.width * n / 100))
    full, apgd = (survivor_passes(PROTOCOLS[name], 10) for name in ("autoattack", "apgd"))
    total = n + left * full + (clean - left) * FOOLED
    width = 100 * most_in_set(left, size, 0) / n
    return {
        "width": width,
        "sample": size,
        "robust": left / n,
        "passes, cr": (n * CR_PASSES * clean / n + size * full) / total,
        "passes, apgd": (n + left * apgd + (clean - left) * FOOLED + size * (full - apgd)) / total,
    }


if __name__ == "__main__":
    main()
