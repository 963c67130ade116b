"""A cell: ours over seeds and images beside the printed number, and the effect beside the printed effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.formatting import DASH, MINUS
from clat.evaluation.crossed import CrossedInterval, accuracy_interval, crossed_interval
from clat.evaluation.result import EvaluationRecord
from clat.evaluation.statistics import SeedSummary
from clat.studies.paper.printed import Printed

COLUMNS = (
    *("data", "network", "row", "measured", "n", "ours", "± seeds", "lowest", "paper"),
    *("less", "ours: effect", "paper: effect", "effect"),
)
"""What a line of an accuracy table shows."""
SAME, OPPOSITE, OPEN = "same sign", "opposite", "not settled"
UNLIKE = "not 0"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table, ours and the paper's."""

    dataset: str
    network: str
    row: str
    attack: str
    kind: str
    """clean or robust."""
    verdicts: NDArray[np.float64] | None = None
    """(seeds, images), 1 where a network is right; None where nothing was measured."""
    images: tuple[str, ...] = ()
    """A seed's digest of what it was measured on, by which pairs are told."""
    seeds: tuple[int, ...] = ()
    printed: Printed | None = None
    failure: str | None = None
    against: str = ""
    """The row that its effect is taken against."""
    effect: CrossedInterval | None = None
    printed_effect: float | None = None
    """In points."""
    printed_effect_flag: str = ""
    """What is known of the printed numbers behind it, one of FLAGS; empty: nothing."""
    note: str = ""
    """What sets our method apart from the printed one."""

    @property
    def interval(self) -> CrossedInterval | None:
        """Return the accuracy with its interval over seeds and images."""
        return None if self.verdicts is None else accuracy_interval(self.verdicts)

    @property
    def failed(self) -> bool:
        """Return whether anything of it is missing: all that is measured, or a seed."""
        return self.verdicts is None or bool(self.failure)

    @property
    def settled(self) -> str:
        """Return whether our effect has the sign of the printed one: SAME, OPPOSITE, UNLIKE or OPEN; empty without
        both.

        A single seed settles nothing: its interval speaks of two networks and not of two methods.
        """
        if self.effect is None or self.printed_effect is None:
            return ""
        sign = self.effect.sign
        if sign == 0 or self.effect.seeds < 2:
            return OPEN
        if self.printed_effect == 0:
            return UNLIKE
        return SAME if sign * self.printed_effect > 0 else OPPOSITE

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; accuracies in [0, 1], printed numbers as printed.

        Returns:
            What an entry of table.json holds.
        """
        about = {key: getattr(self, key) for key in ("dataset", "network", "row", "attack", "kind", "failure")}
        values = () if self.verdicts is None else tuple(self.verdicts.mean(axis=1).tolist())
        return {
            **about,
            "ours": None if self.interval is None else self.interval.to_dict(),
            "over_seeds": SeedSummary(values).to_dict() if values else None,
            "seeds": list(self.seeds),
            "paper": None if self.printed is None else vars(self.printed),
            "against": self.against or None,
            "effect": None if self.effect is None else self.effect.to_dict(),
            "paper_effect_points": self.printed_effect,
            "paper_effect_flag": self.printed_effect_flag or None,
            "settled": self.settled or None,
            "note": self.note or None,
        }

    def texts(self) -> list[str]:
        """Return the cell as text, for each of COLUMNS.

        Returns:
            As many texts as there are COLUMNS.
        """
        about = [self.dataset, self.network, self.row, self.kind if self.kind == "clean" else self.attack]
        method, _, other = self.against.partition(", ")
        less = other if other and method == self.row.partition(", ")[0] else self.against or DASH
        ours = self.interval
        flag = f" ({self.printed_effect_flag})" if self.printed_effect_flag else ""
        theirs = points(self.printed_effect) + flag
        if ours is None or self.verdicts is None:
            why = f"failed: {self.failure}" if self.failure else "not run"
            return [*about, DASH, why, DASH, DASH, paper_text(self.printed), less, DASH, theirs, ""]
        summary = SeedSummary(tuple(self.verdicts.mean(axis=1).tolist()))
        part = f"; another seed failed: {self.failure}" if self.failure else ""
        return [
            *about,
            f"{ours.images:,}",
            f"{100 * ours.value:.1f} [{100 * ours.low:.1f}, {100 * ours.high:.1f}]{part}",
            DASH if summary.deviation is None else f"{100 * summary.deviation:.1f}",
            f"{100 * summary.lowest:.1f} of {len(summary.values)}",
            paper_text(self.printed),
            less,
            effect_text(self.effect),
            theirs,
            self.settled,
        ]


def measured_on(cells: Sequence[Cell]) -> str:
    """Return what the accuracies of cells are of: weights, seeds, and what their intervals are over.

    Args:
        cells: of a table.

    Returns:
        Sentences.
    """
    seeds = sorted({one.verdicts.shape[0] for one in cells if one.verdicts is not None})
    best = any("checkpoint=best" in cell.row for cell in cells)
    weights = "the last weights, of the best ones where a row says checkpoint=best" if best else "the last weights"
    counted = f"{', '.join(map(str, seeds)) or '-'} seed{'' if seeds == [1] else 's'}"
    return (
        f"Percent, of {weights}, on n test images, {counted}. In brackets: 95 % "
        "intervals over seeds and images (Student's t, two crossed factors), of a single seed over images alone "
        "(accuracies: Wilson's)."
    )


def verdicts_of(records: Sequence[EvaluationRecord], kind: str) -> NDArray[np.float64]:
    """Return who is right, a row a result.

    Args:
        records: results on the same images, one a seed.
        kind: clean or robust.

    Returns:
        (seeds, images), 1.0 or 0.0.

    Raises:
        ClatError: If a result has no verdicts.
    """
    rows = []
    for record in records:
        flags: Tensor | None = record.correct if kind == "clean" else record.robust
        if flags is None:
            raise ClatError(f"{record.name} has no verdicts: move it away, to measure again")
        rows.append(flags.numpy().astype(np.float64))
    return np.stack(rows)


def effect_of(cell: Cell, other: Cell) -> CrossedInterval | None:
    """Return one cell less another, seed by seed and image by image.

    Args:
        cell: the one.
        other: the one taken away.

    Returns:
        The difference with its interval; None if they share no seed or were measured on other images.
    """
    shared = [seed for seed in cell.seeds if seed in other.seeds]
    if cell.verdicts is None or other.verdicts is None or not shared:
        return None
    mine, theirs = ([one.seeds.index(seed) for seed in shared] for one in (cell, other))
    if any(cell.images[a] != other.images[b] for a, b in zip(mine, theirs, strict=True)):
        return None
    return crossed_interval(cell.verdicts[mine] - other.verdicts[theirs])


def paper_text(printed: Printed | None) -> str:
    """Return a printed number as text, with its flag.

    Args:
        printed: the number; None: there is none.

    Returns:
        The text, or a dash.
    """
    if printed is None:
        return DASH
    sign = "+" if printed.metric.endswith("delta") else ""
    told = ", ".join(filter(None, (printed.elsewhere, printed.flag)))
    return f"{sign}{printed.value}" + (f" ({told})" if told else "")


def effect_text(effect: CrossedInterval | None) -> str:
    """Return an effect in points with its interval, such as "+1.2 [-0.3, +2.6]".

    Args:
        effect: the difference, in [-1, 1]; None: there is none.

    Returns:
        The text, or a dash.
    """
    return DASH if effect is None else difference_text(effect.value, effect.low, effect.high)


def difference_text(value: float, low: float, high: float) -> str:
    """Return a difference of accuracies in points with its interval.

    Args:
        value: the difference, in [-1, 1].
        low: lower end of its interval.
        high: upper end.

    Returns:
        A text such as "+1.2 [-0.3, +2.6]".
    """
    return f"{points(100 * value)} [{points(100 * low)}, {points(100 * high)}]"


def points(value: float | None) -> str:
    """Return percentage points with their sign, or a dash.

    Args:
        value: the points; None: there are none.

    Returns:
        The text, or a dash.
    """
    return DASH if value is None else f"{value:+.1f}".replace("-", MINUS)
