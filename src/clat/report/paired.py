"""The difference between two networks on the same images, in words, by the paired test of their verdicts."""

from __future__ import annotations

from clat.core.formatting import DASH, MINUS, SPACE, count, number, points
from clat.evaluation.statistics import PairedDifference

SETTLED = 0.05
"""The p value below which a difference is told from chance."""


def difference_in_words(difference: PairedDifference) -> str:
    """Return a difference with its interval, McNemar's p, and what that settles.

    Args:
        difference: of two networks' verdicts on the same images.

    Returns:
        A clause without a full stop.
    """
    low, high = (f"{100 * end:+.1f}".replace("-", MINUS) for end in difference.interval)
    spread = f"95{SPACE}% interval {low} to {high}"
    p = p_text(difference.p_value)
    said = f"{points(difference.value)} on the same {count(difference.n)} images, {spread}, McNemar {p}"
    return said if difference.p_value < SETTLED else f"{said}: no difference that the paired test tells from chance"


def p_text(p: object) -> str:
    """Return a p value as text: "p = 0.031", "p < 0.0001".

    Args:
        p: the p value, or anything else where there is none.

    Returns:
        The text, with a dash for what is none.
    """
    value = number(p)
    if value is None:
        return f"p = {DASH}"
    return f"p{SPACE}={SPACE}{value:.2g}" if value >= 1e-4 else f"p{SPACE}<{SPACE}0.0001"
