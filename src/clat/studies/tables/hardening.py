"""Which objective hardens a clean network best at equal time? What `clat harden` chooses rests on this table.

Every row begins with the same network, trained on clean images, and goes on as a hardening would, with the epochs
that the time of a few epochs of PGD-AT allows. Held-out images choose; the test split reports (`--finals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.core.formatting import counted
from clat.hardening.recipe import MONITOR_STEPS, harden_schedule, harden_stages
from clat.studies.row import Row, Scale, Study, Table, make_recipe, stage

COST = {"fast-at": 0.33, "gat": 0.44, "n-fgsm": 0.34, "pgd-2": 0.33, "pgd-10": 1.0, "trades": 1.18}
"""Candidate -> CPU seconds of a step over those of PGD-AT with ten (`python -m benchmarks.hardening_cost`; a Xeon
with AMX, one thread, ResNet-18 of width 16; `docs/results/benchmarks/hardening_cost.json`)."""
CLAT_COST = 0.67
"""The same of a CLAT step, by which the stages that tune critical layers are shortened (`clat bench`)."""

SMALL = Scale(
    name="small",
    start=20,
    rest=4,
    seeds=(0, 1, 2),
    settings={
        "eps": "8/255",
        "batch_size": 128,
        "model": {"name": "resnet18", "width": 16, "normalize": "cifar10"},
        "data": {"name": "cifar10", "train_size": 10_000, "heldout": 1000},
        "optimizer": {"momentum": 0.9},
        "monitor": {"steps": MONITOR_STEPS, "num_samples": 500, "every": 2},
        "evaluation": {"weights": "none"},
    },
    remark="A ResNet-18 of width 16, trained on 10,000 clean images of CIFAR-10, then hardened for the time of "
    "four epochs of PGD-AT with ten steps: minutes on a CPU. Judged on held-out training images.",
)

MEDIUM = Scale(
    name="medium",
    start=30,
    rest=15,
    seeds=(0, 1, 2),
    settings={
        **SMALL.settings,
        "model": {"name": "resnet18", "normalize": "cifar10"},
        "data": {"name": "cifar10", "heldout": 1000},
    },
    remark="A ResNet-18, trained on clean CIFAR-10, then hardened for the time of fifteen epochs of PGD-AT with "
    "ten steps: for a GPU. Judged on held-out training images.",
)


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return the candidates with averaged weights, then what may follow the best of them, then all without.

    Args:
        scale: epochs of the clean stage, and of PGD-AT as the unit of time for the rest.
        out: the study's folder; not read.

    Returns:
        The rows.
    """
    begin = stage("clean", scale.start, "standard", schedule={"kind": "one-cycle", "lr": 0.1, "peak": 0.3})
    first = f"{next(iter(COST))}-ema"

    def row(name: str, candidate: str, epochs: int, *, keep: str = "best", ema: bool = True) -> Row:
        later: list[Table] = [
            {"schedule": harden_schedule(), **one} for one in harden_stages(candidate, epochs, keep=keep, ema=ema)
        ]
        reuse = None if name == first else first
        return Row(name, make_recipe(scale, name, [begin, *later]), reuse=reuse, note=_note(candidate, later))

    def fitting(candidate: str) -> int:
        return max(round(scale.rest / COST[candidate]), 1)

    def with_tuning(candidate: str) -> int:
        """Return the epochs in all, a fifth of them CLAT's."""
        return max(round(scale.rest / (0.8 * COST[candidate] + 0.2 * CLAT_COST)), 2)

    return [
        *(row(f"{name}-ema", name, fitting(name)) for name in COST),
        *(row(f"pgd-2-ema+{keep}", "pgd-2", with_tuning("pgd-2"), keep=keep) for keep in ("clat", "clat-plus")),
        *(row(name, name, fitting(name), ema=False) for name in COST),
    ]


def _note(candidate: str, stages: Sequence[Table]) -> str:
    return f"{candidate}: " + " + ".join(counted(one["epochs"], "epoch") for one in stages)


HARDENING = Study("hardening", "Which objective hardens a clean network best at equal time?", rows, (SMALL, MEDIUM))
