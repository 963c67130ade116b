"""Does training in bfloat16 cost robustness? PGD-AT, then CLAT, from three seeds in either precision.

A pair of rows shares everything but `engine.precision`; what the seeds differ by says how much of the difference
between the pairs is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.studies.row import Row, Scale, Study, clat_stage, make_recipe, stage
from clat.studies.scales import SHORT, SMOKE

SEEDS = (0, 1, 2)
PRECISIONS = {"float32": "32", "bfloat16": "bf16-mixed"}


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Two rows a seed."""
    stages = [stage("pgd-at", scale.start, "pgd-at"), clat_stage(scale.rest)]
    return [
        Row(
            f"{label}-seed{seed}",
            make_recipe(scale, f"{label}-seed{seed}", stages, {"seed": seed, "engine": {"precision": precision}}),
        )
        for seed in SEEDS
        for label, precision in PRECISIONS.items()
    ]


PRECISION = Study(
    "precision", "bfloat16 against float32: PGD-AT, then CLAT, three seeds each", rows, (SMOKE, SHORT)
)
