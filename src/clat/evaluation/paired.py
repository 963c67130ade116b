"""The difference of two results image by image, where they are of the same images."""

from __future__ import annotations

from clat.core.errors import ClatError
from clat.evaluation.compare import compare
from clat.evaluation.record import EvaluationRecord
from clat.evaluation.statistics import PairedDifference


def differences_where_paired(
    first: EvaluationRecord, second: EvaluationRecord
) -> dict[str, PairedDifference] | None:
    """Return the second's accuracies less the first's, image by image.

    Args:
        first: one result.
        second: another.

    Returns:
        "clean" and "robust" -> difference; None unless both hold verdicts under one setting on the same images.
    """
    if first.images is None or first.images != second.images:
        return None
    try:
        return compare(first, second).differences
    except ClatError:
        return None
