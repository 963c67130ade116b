"""Every adversarial-training baseline of the papers, alone and under CLAT, at one budget.

A baseline keeps its own objective, treatments and augmentation; network, data, eps, epochs, batch size and learning
rate are the study's. What the papers print stands beside it (CLAT v2 Table 1 and 18, ResNet-18 unless said).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clat.studies.row import Paper, Row, Scale, Study, Table, clat_stage, make_recipe, stage
from clat.studies.scales import SHORT, SMOKE


def pair(
    scale: Scale,
    name: str,
    objective: str | Mapping[str, Any],
    *,
    changes: Table | None = None,
    stateful: bool = False,
    papers: tuple[Paper | None, Paper | None] = (None, None),
    note: str = "",
    select: Table | None = None,
    **settings: Any,
) -> list[Row]:
    """X and X + CLAT. `settings`: of X's stage; `select`: of CLAT's selection. The second row takes over X's first
    stage from the first row, unless X keeps state that a cut into two stages would reset (`stateful`)."""
    first = stage(name, scale.start, objective, **settings)
    more = stage(f"{name}-on", scale.rest, objective, **settings)
    alone = [{**first, "epochs": scale.epochs}] if stateful else [first, more]
    return [
        Row(name, make_recipe(scale, name, alone, changes), paper=papers[0], note=note),
        Row(
            f"{name}+clat",
            make_recipe(scale, name, [first, clat_stage(scale.rest, **(select or {}))], changes),
            reuse=None if stateful else name,
            paper=papers[1],
        ),
    ]


def rows(scale: Scale) -> Sequence[Row]:
    """The table, in its order."""

    def table1(clean: float, robust: float, clean_clat: float, robust_clat: float) -> tuple[Paper, Paper]:
        where = ("PGD-10", "CLAT v2 T1")
        return Paper(clean, robust, *where), Paper(clean_clat, robust_clat, *where)

    found: list[Row] = []
    found += pair(scale, "pgd-at", "pgd-at", papers=table1(81.46, 53.63, 83.89, 55.37))
    found += pair(scale, "trades", "trades", papers=table1(81.54, 53.31, 81.89, 54.57))
    found += pair(scale, "fast-at", "fast-at", papers=table1(81.46, 45.55, 84.46, 52.13))
    return found


BASELINES = Study("baselines", "Adversarial-training baselines, alone and under CLAT", rows, (SMOKE, SHORT))
