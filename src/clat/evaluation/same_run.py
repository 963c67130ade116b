"""Results that are called seeds have to come from different runs: two checkpoints of one run are not two seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.core.errors import ClatError
from clat.evaluation.result import EvaluationRecord


def refuse_one_run(sources: Sequence[object], group: Sequence[EvaluationRecord]) -> None:
    """Raise an error for two results of one run, such as its best and its last weights.

    Their spread is none of seeds.

    Args:
        sources: where the results come from: files, or results in memory.
        group: the results, in the same order.

    Raises:
        ClatError: If two of them are of one run; it names both.
    """
    seen: dict[Path, str] = {}
    for source, record in zip(sources, group, strict=True):
        run = _run_of(source, record)
        if run is not None and run in seen:
            raise ClatError(
                f"{seen[run]} and {record.name} are two checkpoints of the run {run}, not two seeds: give one each"
            )
        if run is not None:
            seen[run] = record.name


def _run_of(source: object, record: EvaluationRecord) -> Path | None:
    """Return the folder of the run whose weights a result is of, where the file or its record tells."""
    named = (source if isinstance(source, str | Path) else None, record.text("weights"))
    for place in named:  # RUN/evaluations/best.json, RUN/weights/best.safetensors
        if place is None:
            continue
        run = Path(place).resolve().parent.parent
        if (run / "run.json").is_file():
            return run
    return None
