"""Comparisons that a table's own effects leave out: CLAT with X, with averaged weights, with other layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clat.evaluation.crossed import CrossedInterval
from clat.studies.paper.accuracy import printed_effect, printed_effect_flag
from clat.studies.paper.cells import Cell, effect_of, effect_text, points
from clat.studies.paper.methods import AVERAGED
from clat.studies.paper.scales import K

OWN = ("", "critical", "dynamic")
"""What a table calls the layers that CLAT itself would move."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One row less another one, of a network on a data set."""

    cell: Cell
    other: Cell
    effect: CrossedInterval
    printed: float | None
    """The paper's difference in points."""
    flag: str
    """What is known of the numbers behind that, one of FLAGS; empty: nothing."""

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
            "paper_effect_flag": self.flag or None,
        }


def contrasts(cells: Sequence[Cell]) -> list[Contrast]:
    """Return CLAT less X, less PGD-AT with averaged weights, and less CLAT on other layers.

    Args:
        cells: of a table.

    Returns:
        The differences that are no effect of the table already, of cells that share seeds and images.
    """
    return _contrasts(cells, _asked_in_a_table)


def sweep_contrasts(cells: Sequence[Cell]) -> list[Contrast]:
    """Return the paper's number of layers less every other one, and less PGD-AT with averaged weights.

    Args:
        cells: of a figure over the number of layers.

    Returns:
        The differences, of cells that share seeds and images.
    """
    return _contrasts(cells, _asked_in_a_sweep)


def _contrasts(cells: Sequence[Cell], asked: Callable[[Cell, Cell], bool]) -> list[Contrast]:
    found = []
    for cell in cells:
        for other in cells:
            if other.row == cell.against or not _alike(cell, other) or not asked(cell, other):
                continue
            effect = effect_of(cell, other)
            if effect is not None:
                pair = (cell.printed, other.printed)
                found.append(
                    Contrast(
                        cell=cell,
                        other=other,
                        effect=effect,
                        printed=printed_effect(*pair),
                        flag=printed_effect_flag(*pair),
                    )
                )
    rows = list(dict.fromkeys(cell.row for cell in cells))
    return sorted(found, key=lambda one: rows.index(one.other.row))


def _asked_in_a_table(cell: Cell, other: Cell) -> bool:
    method, _, layers = cell.row.partition(", ")
    base, plus, _ = method.partition("+clat")
    if not plus or layers not in OWN:
        return False
    theirs, _, choice = other.row.partition(", ")
    averaged = other.row == "ema" and base == "pgd-at"
    return averaged or other.row == base or (theirs == method and choice not in OWN)


def _asked_in_a_sweep(cell: Cell, other: Cell) -> bool:
    own = f"k = {K[cell.network]}"
    return cell.row == own != other.row and (other.row.startswith("k = ") or other.row == AVERAGED)


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
        (method, _, mine), (other, _, theirs) = (cell.row.partition(", ") for cell in (one.cell, one.other))
        names = f"{mine} less {theirs}" if method == other and mine else f"{one.cell.row} less {one.other.row}"
        flag = f", {one.flag}" if one.flag else ""
        paper = "" if one.printed is None else f" (paper {points(one.printed)}{flag})"
        what = "clean" if one.cell.kind == "clean" else one.cell.attack.partition(",")[0]
        pair = f"{one.cell.dataset}, {one.cell.network}: {names}"
        parts.setdefault(pair, []).append(f"{what} {effect_text(one.effect)}{paper}")
    return " ".join(f"{pair}: {'; '.join(texts)}." for pair, texts in parts.items())
