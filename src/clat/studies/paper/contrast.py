"""Choices of layers against one another, where a table prints each of them beside X alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clat.evaluation.bootstrap import CrossedInterval
from clat.studies.paper.accuracy import printed_effect
from clat.studies.paper.cells import Cell, effect_of, effect_text, points

MOST = ("critical", "dynamic")
"""What a table calls CLAT's own choice."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """CLAT's own choice of layers less another one, of a network on a data set."""

    cell: Cell
    other: Cell
    effect: CrossedInterval
    printed: float | None
    """The paper's difference in points."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; the effect in [-1, 1], the printed one in points.

        Returns:
            What a contrast of table.json holds.
        """
        about = {key: getattr(self.cell, key) for key in ("dataset", "network", "row", "attack", "kind")}
        return {
            **about,
            "against": self.other.row,
            "effect": self.effect.to_dict(),
            "paper_effect_points": self.printed,
        }


def contrasts(cells: Sequence[Cell]) -> list[Contrast]:
    """Return each critical (or dynamic) choice less every other that its effect is not taken against already.

    Args:
        cells: of a table.

    Returns:
        The differences, seed by seed and image by image, of cells that share seeds and images.
    """
    found = []
    for cell in cells:
        method, _, layers = cell.row.partition(", ")
        for other in cells if layers in MOST else ():
            theirs, _, choice = other.row.partition(", ")
            if not choice or choice == layers or other.row == cell.against or theirs != method:
                continue
            effect = effect_of(cell, other) if _alike(cell, other) else None
            if effect is not None:
                printed = printed_effect(cell.printed, other.printed)
                found.append(Contrast(cell=cell, other=other, effect=effect, printed=printed))
    return found


def _alike(cell: Cell, other: Cell) -> bool:
    names = ("dataset", "network", "attack", "kind")
    return all(getattr(cell, name) == getattr(other, name) for name in names)


def sentences(found: Sequence[Contrast]) -> str:
    """Return contrasts as a sentence for each pair of rows.

    Args:
        found: of one table.

    Returns:
        Such as "cifar10, resnet18: critical less smallest: clean +0.2 [-0.9, +1.4] (paper +1.3)."; empty for none.
    """
    parts: dict[str, list[str]] = {}
    for one in found:
        mine, theirs = (cell.row.partition(", ")[2] for cell in (one.cell, one.other))
        paper = "" if one.printed is None else f" (paper {points(one.printed)})"
        what = "clean" if one.cell.kind == "clean" else one.cell.attack.partition(",")[0]
        pair = f"{one.cell.dataset}, {one.cell.network}: {mine} less {theirs}"
        parts.setdefault(pair, []).append(f"{what} {effect_text(one.effect)}{paper}")
    return " ".join(f"{pair}: {'; '.join(texts)}." for pair, texts in parts.items())
