"""Evaluations where a notebook displays them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clat.core.notebook import html_table

if TYPE_CHECKING:
    from clat.evaluation.record import EvaluationRecord


def evaluation_html(
    title: str, clean: object, per_attack: Mapping[str, object], robust: object, caption: str
) -> str:
    """Return an evaluation as HTML: clean, after each attack, and robust.

    Args:
        title: the protocol and the radius.
        clean: the accuracy on clean images, written by its `str`.
        per_attack: name -> the accuracy left after it; shown where there are several.
        robust: the accuracy under all attacks.
        caption: what is to be known beside the numbers.

    Returns:
        HTML.
    """
    between = [(f"after {name}", left) for name, left in per_attack.items()] if len(per_attack) > 1 else []
    rows = [("clean", clean), *between, ("robust", robust)]
    return html_table(["", "accuracy and its 95 % interval"], rows, title=title, caption=caption)


def results_html(records: Sequence[EvaluationRecord], title: str) -> str:
    """Return several results as HTML, a row each.

    Args:
        records: the results.
        title: what they are of.

    Returns:
        HTML.
    """
    rows = [
        (one.label, one.clean_accuracy or "-", one.robust_accuracy or "-", _measured(one), one.setting["n"])
        for one in records
    ]
    return html_table(["", "clean", "robust", "protocol", "images"], rows, title=title)


def _measured(record: EvaluationRecord) -> str:
    return f"{record.protocol} at {record.ball}" if record.ball else record.protocol
