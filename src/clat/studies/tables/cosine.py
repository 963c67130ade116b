"""Is CLAT's gain real where PGD-AT has a schedule as good? One cosine over the whole budget for every row.

PGD-AT goes along it up to a share of the budget, then another stage does, as the paper's own runs seem to have it.
PGD-AT alone along shorter cosines stands beside them: how long it trains is a setting, which trades robust for
clean accuracy, and a gain over one length may be no more than another length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clat.studies.row import Row, Scale, Study, Table, make_recipe, stage
from clat.studies.tables.claim import FINISHED, NARROW, OUTPUT, WIDE, clat_with

SHORTER = (0.4, 0.6, 0.8)
"""Shares of the budget after which PGD-AT has finished."""

STARTS = (0.75, 0.5, 0.25)
"""Shares of the budget after which another stage takes over from PGD-AT."""

PLUS: Table = {**OUTPUT, "ratio": 0.3}
BOTH: Table = {"rule": "all", "ce_input": "both", "feature_input": "pgd"}
"""Half of the cross-entropy on clean images, one attack for it and for L_C, in L_C's plain form."""

WHOLE: Table = {"rule": "all", "bn": "update"}
"""Nothing is frozen: PGD-AT with L_C beside it."""

FORMS: dict[str, Table] = {
    "clat": {},
    "clat-ratio-1.0": {"ratio": 1.0},
    "clat-ratio-1.0-all": {"ratio": 1.0, "rule": "all"},
    "clat-fast-all-ratio-1.5": {"name": "clat-fast", "ratio": 1.5, "rule": "all"},
    "clat-both-all-ratio-0.5": {**BOTH, "ratio": 0.5},
    "clat-both-all-ratio-1.0": {**BOTH, "ratio": 1.0},
    "clat-plus": PLUS,
    "clat-plus-ratio-1.0": {**PLUS, "ratio": 1.0},
    "clat-plus-random": {**PLUS, "rule": "random"},
    "clat-plus-bn": {**PLUS, "bn": "update"},
    "clat-plus-all": {**PLUS, "rule": "all"},
    "clat-plus-all-bn": {**PLUS, **WHOLE},
    "clat-plus-all-bn-ratio-1.0": {**PLUS, **WHOLE, "ratio": 1.0},
    "clat-plus-all-bn-both-ratio-0.0": {**PLUS, **WHOLE, "ce_input": "both", "ratio": 0.0},
    "clat-plus-all-bn-both-ratio-0.6": {**PLUS, **WHOLE, "ce_input": "both", "ratio": 0.6},
    "clat-plus-all-bn-both-ratio-1.0": {**PLUS, **WHOLE, "ce_input": "both", "ratio": 1.0},
}
"""Name -> settings of the stage that takes over. `all`: all layers move; `bn`: BatchNorm goes on as in PGD-AT;
`both`: half of the cross-entropy is taken on clean images."""


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return the control first, then PGD-AT along shorter cosines, then what takes over from it.

    Args:
        scale: epochs and shared settings.
        out: the study's folder; not read.

    Returns:
        The rows.
    """

    def row(name: str, *stages: Table, reuse: str | None = None) -> Row:
        return Row(name, make_recipe(scale, name, stages, {"schedule": FINISHED}), reuse=reuse)

    found = [row("pgd-at", stage("pgd-at", scale.epochs, "pgd-at"))]
    for share in SHORTER:
        found.append(row(f"pgd-at-{share:.0%}", stage("pgd-at", round(share * scale.epochs), "pgd-at")))
    found.append(row("clat-from-0%", clat_with(scale, epochs=scale.epochs, lr=None)))
    for share in STARTS:
        start = round(share * scale.epochs)
        owner = f"clat-from-{share:.0%}"
        for form, settings in FORMS.items():
            name = f"{form}-from-{share:.0%}"
            rest = clat_with(scale, epochs=scale.epochs - start, lr=None, **settings)
            found.append(row(name, stage("pgd-at", start, "pgd-at"), rest, reuse=None if name == owner else owner))
    return found


FIFTH = replace(
    NARROW,
    name="fifth",
    start=12,
    rest=4,
    settings={
        **NARROW.settings,
        "data": {"name": "cifar10", "train_size": 10_000, "heldout": 3000},
        "monitor": {"num_samples": 2000, "every": 4},
    },
    remark="10,000 training images and 16 epochs, so that PGD-AT learns to the end and hardly overfits robustly, "
    "and a ResNet-18 of width 16. Judged on held-out training images; the test split is unread.",
)

_REMARK = "All rows go along one cosine, so that none has a better schedule than another. "

COSINE = Study(
    "cosine",
    "Is CLAT's gain real where PGD-AT has as good a schedule?",
    rows,
    tuple(replace(scale, remark=_REMARK + scale.remark) for scale in (NARROW, FIFTH, WIDE)),
)
