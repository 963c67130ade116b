"""The fine-tuning competitors: from one PGD-AT network and with one remaining budget, which parameters should move?

Every row starts with the same PGD-AT stage; what each does with the rest of the budget is its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.studies.row import Paper, Row, Scale, Study, Table, clat_stage, make_recipe, stage
from clat.studies.tables.scales import SHORT, SMOKE


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return the competitors, then their combinations with CLAT, all from one PGD-AT stage.

    Args:
        scale: epochs and shared settings.
        out: the study's folder; not read.

    Returns:
        The rows.
    """
    rest, half = scale.rest, scale.rest // 2
    once = "CLAT's part of an epoch selects once: non-dynamic." if rest - half < 2 else ""
    lora = {"name": "lora", "rank": 8}

    def row(name: str, *stages: Table, paper: Paper | None = None, note: str = "") -> Row:
        start = stage("pgd-at", scale.start, "pgd-at")
        return Row(
            name,
            make_recipe(scale, name, [start, *stages]),
            reuse=None if name == "pgd-at" else "pgd-at",
            paper=paper,
            note=note,
        )

    return [
        row("pgd-at", stage("pgd-at-on", rest, "pgd-at"), paper=_table1(81.46, 53.63)),
        row("clat", clat_stage(rest), paper=_table1(83.89, 55.37)),
        row("clat-random", clat_stage(rest, rule="random"), paper=Paper(78.02, 51.03, "PGD-10", "CLAT v2, T7")),
        row("rift", _rift(scale, rest), paper=Paper(83.44, 53.65, "PGD-10", "RiFT, T1")),
        row(
            "lora",
            stage("lora", rest, "pgd-at", treatments=[lora], batch_norm="update"),
            paper=_table1(76.57, 55.38),
            note="PGD-AT on low-rank factors of rank 8.",
        ),
        row("autolora", _autolora(rest), paper=Paper(84.20, 54.27, "PGD-10", "CLAT v2, T1"), note=_IMAGENET),
        row("twins-at", stage("twins", rest, "twins"), paper=_twins(47.89), note=_IMAGENET),
        row("twins-trades", stage("twins", rest, {"name": "twins", "form": "trades"}), note=_IMAGENET),
        row("cure", stage("cure", rest, "cure"), paper=Paper(86.76, 54.92, "PGD-20", "CURE, T1"), note=_CURE),
        row("clat+rift", clat_stage(rest - half), _rift(scale, half), note=once),
        row(
            "autolora+clat",
            _autolora(half),
            clat_stage(rest - half),
            paper=_table1(86.45, 58.53),
            note=f"{_IMAGENET} {once}".strip(),
        ),
        row(
            "twins+clat",
            stage("twins", half, "twins"),
            clat_stage(rest - half),
            paper=_twins(51.39),
            note=f"{_IMAGENET} {once}".strip(),
        ),
        row("cure+clat", stage("cure", half, "cure"), clat_stage(rest - half), note=once),
    ]


_IMAGENET = "The paper starts from a robust ImageNet network; here, as every row, from PGD-AT."
_CURE = "The paper starts from a naturally trained network; here, as every row, from PGD-AT."


def _rift(scale: Scale, epochs: int) -> Table:
    """Return RiFT as published but for its length: the least robust-critical layer, clean images, interpolation."""
    heldout = scale.settings["data"]["heldout"]
    return stage(
        "rift",
        epochs,
        "standard",
        selection={"rule": "least-critical", "ranking": "mrc", "k": 1, "every": 0, "num_samples": heldout},
        batch_norm="update",
        schedule={"kind": "piecewise", "lr": 0.001, "milestones": [0.5]},
        treatments=[{"name": "interpolation"}],
    )


def _autolora(epochs: int) -> Table:
    """Return AutoLoRa's stage with its own automatic learning rate, which begins at the study's rate."""
    return stage("autolora", epochs, "autolora", schedule={"kind": "constant", "lr": 0.05})


def _twins(robust: float) -> Paper:
    return Paper(None, robust, "AutoAttack", "CLAT v2, T2")


def _table1(clean: float, robust: float) -> Paper:
    return Paper(clean, robust, "PGD-10", "CLAT v2, T1")


COMPETITORS = Study(
    "competitors", "Fine-tuning from one PGD-AT network: which parameters should move?", rows, (SMOKE, SHORT)
)
