"""Results class by class, as the page shows them: accuracies, and what is taken for what under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clat.evaluation.by_class import class_accuracies, confusion
from clat.evaluation.result import EvaluationRecord

MATRIX = 12
"""Classes up to which what is taken for what is a matrix; of more, the most frequent pairs are listed."""
ROWS = 20
"""Classes of the table at most: those with the lowest robust accuracy."""
PAIRS = 12


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """`accuracies`: (clean, robust) of each network, in [0, 1] or None."""

    name: str
    n: int
    accuracies: list[tuple[float | None, float | None]]


@dataclass(frozen=True, kw_only=True)
class Confused:
    """What one network takes for what. `cells`: share of each class, (K, K); empty where there are many classes,
    then `pairs`: (right class, taken for, images, share of the right class)."""

    network: str
    cells: list[list[float]]
    pairs: list[tuple[str, str, int, float]]


@dataclass(frozen=True, kw_only=True)
class ClassSection:
    """`names`: of all classes; `rows`: of those that are shown, `left_out`: so many are not; `confused`: a network
    each, which `networks` names."""

    networks: list[str]
    names: list[str]
    rows: list[ClassRow]
    left_out: int
    confused: list[Confused]


def class_section(results: Sequence[tuple[str, EvaluationRecord]]) -> ClassSection | None:
    """Return what there is to say class by class; None where the results do not say which image is of which class.

    Args:
        results: (what to call the network, its result) of networks on the same images, in the order of time.

    Returns:
        The section's numbers.
    """
    known = [(name, one) for name, one in results if one.labels is not None and _whole(one)]
    if not known:
        return None
    names = _class_names(known[-1][1])
    tables = []
    for _, one in known:
        assert one.labels is not None
        assert one.correct is not None
        assert one.robust is not None
        tables.append(class_accuracies(one.labels, one.correct, one.robust, names))
    rows = [
        ClassRow(name=name, n=table[-1]["n"], accuracies=[(one["clean"], one["robust"]) for one in table])
        for name, table in zip(names, zip(*tables, strict=True), strict=True)
        if table[-1]["n"]
    ]
    shown = rows
    if len(rows) > ROWS:
        shown = sorted(rows, key=lambda row: row.accuracies[-1][1] or 0.0)[:ROWS]
    return ClassSection(
        networks=[name for name, _ in known],
        names=names,
        rows=shown,
        left_out=len(rows) - len(shown),
        confused=[found for name, one in known if (found := _confused(name, one, names)) is not None],
    )


def _whole(one: EvaluationRecord) -> bool:
    """Return whether there is a verdict for each label."""
    parts = (one.labels, one.correct, one.robust)
    return all(part is not None for part in parts) and len({len(part) for part in parts if part is not None}) == 1


def _class_names(one: EvaluationRecord) -> list[str]:
    assert one.labels is not None
    listed: Any = one.data.get("classes")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    return [*names, *map(str, range(len(names), int(one.labels.max()) + 1))]


def _confused(network: str, one: EvaluationRecord, names: Sequence[str]) -> Confused | None:
    if one.labels is None or one.predicted is None or len(one.predicted) != len(one.labels):
        return None
    counts = confusion(one.labels, one.predicted, len(names))
    total = torch.bincount(one.labels, minlength=len(names)).clamp_min(1)
    shares = counts / total[:, None]
    if len(names) <= MATRIX:
        return Confused(network=network, cells=shares.tolist(), pairs=[])
    wrong = counts.clone().fill_diagonal_(0).flatten()
    values, places = wrong.topk(min(PAIRS, len(wrong)))
    pairs = [
        (names[place // len(names)], names[place % len(names)], count, float(shares.flatten()[place]))
        for count, place in zip(values.tolist(), places.tolist(), strict=True)
        if count
    ]
    return Confused(network=network, cells=[], pairs=pairs)
