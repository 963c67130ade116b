"""How often `clat evidence` says what, by what is true: the error rates of its rule.

    python -m benchmarks.evidence_verdicts --out docs/results/benchmarks/evidence_verdicts.json

Differences of two rows are drawn as a two-way layout of seeds and images has them, each of the three mean squares
by its own distribution. The spread over images and what is left are those of the differences on record for PGD-AT +
CLAT less PGD-AT on ResNet-18 (docs/results/paper/narrow). How far seeds lie apart is not known so well: it runs
over `--spreads`, in points, for clean and robust accuracy each, and the range of the shares is what is told. Clean
and robust accuracy are drawn apart from one another.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.evaluation.crossed import mean_squares
from clat.evaluation.result import EvaluationRecord
from clat.studies.evidence.comparison import LEVEL, TAIL
from clat.studies.evidence.regimes import REGIMES
from clat.studies.evidence.screening import GOAL
from clat.studies.paper.cells import verdicts_of

RECORDED = Path(__file__).parents[1] / "docs" / "results" / "paper" / "narrow" / "store" / "evaluations"
ROWS = ("cifar10-resnet18-pgd-at+clat-r0.03", "cifar10-resnet18-pgd-at")
PROTOCOL = "clat-pgd-10"
TRUTHS = {
    "no difference": (0.0, 0.0),
    "at the goals": (GOAL["clean"], GOAL["robust"]),
    "twice the goals": (2 * GOAL["clean"], 2 * GOAL["robust"]),
    "as far below": (-GOAL["clean"], -GOAL["robust"]),
}
Array = NDArray[np.float64]


class Spread(NamedTuple):
    """Standard deviations of a difference of verdicts: over images, and of what is left of seed and image."""

    images: float
    rest: float


class Found(NamedTuple):
    """A mean with its standard error and degrees of freedom, a value a simulated regime."""

    mean: Array
    error: Array
    freedom: Array

    @property
    def p(self) -> Array:
        """Return the two-sided p against no difference."""
        return np.asarray(2 * stats.t.sf(np.abs(self.mean) / self.error, self.freedom))

    @property
    def bound(self) -> Array:
        """Return what the true difference does not lie above, as the rule has it."""
        return np.asarray(self.mean + stats.t.isf(TAIL, self.freedom) * self.error)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--draws", type=int, default=100_000, help="of each case (default: 100,000)")
    options.add_argument("--images", type=int, default=5000, help="test images (default: 5,000)")
    options.add_argument(
        "--spreads", type=float, nargs="+", default=[0.4, 0.8, 1.2, 1.6], help="of seeds, in points"
    )
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    claim_output(given.out)
    spreads = {kind: recorded_spread(kind) for kind in GOAL}
    random = np.random.default_rng(0)
    told = {
        str(seeds): {
            truth: rates(random, seeds, given.images, differences, spreads, given.spreads, given.draws)
            for truth, differences in TRUTHS.items()
        }
        for seeds in sorted({regime.fresh for regime in REGIMES})
    }
    write_json(
        given.out,
        {
            "what": "error rates of the verdicts of clat evidence: fresh seeds, then what is true, then the least "
            "and the largest share over the spreads of seeds",
            "images": given.images,
            "draws": given.draws,
            "spreads_of_seeds_points": given.spreads,
            "recorded_spreads": {kind: spread._asdict() for kind, spread in spreads.items()},
            "rates": told,
            "environment": describe_environment("cpu"),
        },
    )
    print(json.dumps(told, indent=1))


def recorded_spread(kind: str) -> Spread:
    """Return the spread of the recorded differences, over seeds that both rows have."""
    verdicts = []
    for row in ROWS:
        files = sorted(RECORDED.glob(f"{row}-s[0-9]-*/last-{PROTOCOL}*.json"))
        verdicts.append(verdicts_of([EvaluationRecord.from_json(file) for file in files], kind))
    seeds = min(len(one) for one in verdicts)
    values = verdicts[0][:seeds] - verdicts[1][:seeds]
    _, of_images, of_rest = mean_squares(values)
    return Spread(images=max((of_images - of_rest) / seeds, 0.0) ** 0.5, rest=of_rest**0.5)


def draw(
    random: np.random.Generator, seeds: int, images: int, apart: float, spread: Spread, true: float, draws: int
) -> Found:
    """Return what regimes would find in one accuracy, as `clat.evaluation.crossed` has it."""
    rest = spread.rest**2
    expected = (rest + images * apart**2, rest + seeds * spread.images**2, rest)
    free = (seeds - 1, images - 1, (seeds - 1) * (images - 1))
    squares = [of * random.chisquare(one, draws) / one for of, one in zip(expected, free, strict=True)]
    whole = squares[0] + squares[1] - squares[2]
    whole = np.maximum.reduce([whole, *squares])
    uncertain = sum(square**2 / one for square, one in zip(squares, free, strict=True))
    deviation = ((expected[0] + expected[1] - expected[2]) / (seeds * images)) ** 0.5
    mean = true + deviation * random.normal(size=draws)
    return Found(mean, np.sqrt(whole / (seeds * images)), whole**2 / uncertain)


def rates(
    random: np.random.Generator,
    seeds: int,
    images: int,
    true: tuple[float, float],
    spreads: dict[str, Spread],
    apart: list[float],
    draws: int,
) -> dict[str, list[float]]:
    """Return the least and the largest share of regimes, over the spreads of seeds, that say each of two things."""
    gains, denials = [], []
    for clean_apart in apart:
        for robust_apart in apart:
            clean, robust = (
                draw(random, seeds, images, points / 100, spreads[kind], value, draws)
                for points, kind, value in zip((clean_apart, robust_apart), GOAL, true, strict=True)
            )
            both = zip((clean, robust), GOAL.values(), strict=True)
            gains.append(np.all([(one.mean >= least) & (one.p < LEVEL) for one, least in both], axis=0).mean())
            both = zip((clean, robust), GOAL.values(), strict=True)
            denials.append(np.any([one.bound < least for one, least in both], axis=0).mean())
    return {
        "gains": [round(float(min(gains)), 4), round(float(max(gains)), 4)],
        "does not gain": [round(float(min(denials)), 4), round(float(max(denials)), 4)],
    }


if __name__ == "__main__":
    main()
