"""Does training in bfloat16 cost robustness? PGD-AT, then CLAT, from three seeds in either precision.

The two rows share everything but `engine.precision`; what the seeds differ by says how much of the difference
between them is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clat.studies.row import Row, Scale, Study, clat_stage, make_recipe, stage
from clat.studies.tables.scales import SHORT, SMOKE

PRECISIONS = {"float32": "32", "bfloat16": "bf16-mixed"}
_REMARK = "Three seeds in either precision, all else equal; {budget}."


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return a row for each precision, float32 first: it is the control.

    Args:
        scale: epochs and shared settings.
        out: the study's folder; not read.

    Returns:
        The rows.
    """
    stages = [stage("pgd-at", scale.start, "pgd-at"), clat_stage(scale.rest)]
    return [
        Row(label, make_recipe(scale, label, stages, {"engine": {"precision": precision}}))
        for label, precision in PRECISIONS.items()
    ]


NARROW = replace(
    SMOKE,
    name="narrow",
    start=14,
    rest=6,
    settings={
        **SMOKE.settings,
        "data": {"name": "cifar10", "train_size": 2000, "heldout": 500},
        "monitor": {"num_samples": 500, "every": 10},
        "evaluation": {"protocol": "pgd-20", "num_samples": 2000},
    },
)
"""Long enough for training to settle, small enough for a CPU."""


def _with_seeds(scale: Scale, budget: str) -> Scale:
    return replace(scale, seeds=(0, 1, 2), remark=_REMARK.format(budget=budget))


PRECISION = Study(
    "precision",
    "bfloat16 against float32: PGD-AT, then CLAT, three seeds each",
    rows,
    (
        _with_seeds(SMOKE, "1,500 images, six epochs, a ResNet-18 of width 16"),
        _with_seeds(NARROW, "2,000 images, twenty epochs, a ResNet-18 of width 16"),
        _with_seeds(SHORT, "all of CIFAR-10, 30 epochs, a full ResNet-18"),
    ),
)
