"""Each layer of a ResNet-18 tuned by itself: the gain that an index of layers should foretell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clat.studies.row import Row, Scale, Study, make_recipe, stage
from clat.studies.tables.claim import END, NARROW, START

LAYERS = 17
"""Layers of a ResNet-18 as criticality numbers them: without shortcuts and classifier."""

SHORT = replace(
    NARROW,
    rest=5,
    remark="As the claim's narrow scale; then five epochs of PGD-AT that move one layer. Held-out images judge.",
)

MANY = replace(
    SHORT,
    name="many",
    start=12,
    rest=2,
    settings={
        **NARROW.settings,
        "batch_size": 128,
        "data": {"name": "cifar10", "train_size": 10_000, "heldout": 3000},
        "monitor": {"num_samples": 2000, "every": 2},
    },
    remark="10,000 training images and twelve epochs, so that PGD-AT does not overfit robustly; then two epochs "
    "that move one layer. Held-out images judge.",
)


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return PGD-AT on all layers first, then PGD-AT on each layer alone.

    Args:
        scale: epochs and shared settings.
        out: the study's folder; not read.

    Returns:
        The rows.
    """
    begin = stage("pgd-at", scale.start, "pgd-at", schedule=START)

    def row(name: str, *layers: str) -> Row:
        selection = {"rule": "named", "layers": list(layers)} if layers else None
        chosen = {"selection": selection} if selection else {}
        end = stage("tune", scale.rest, "pgd-at", schedule=END, **chosen)
        return Row(name, make_recipe(scale, name, [begin, end]), reuse="whole" if layers else None)

    return [row("whole"), *(row(f"layer-{number}", str(number)) for number in range(1, LAYERS + 1))]


ALONE = Study("alone", "What helps when each layer is tuned alone?", rows, (SHORT, MANY))
