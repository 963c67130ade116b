"""Results that are called seeds have to come from different runs: neither one network measured twice nor two
checkpoints of a run are two seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.core.errors import ClatError
from clat.evaluation.result import EvaluationRecord


def refuse_one_run(sources: Sequence[object], group: Sequence[EvaluationRecord]) -> None:
    """Raise an error for two results of one network, or of one run, such as its best and its last weights.

    Their spread is none of seeds.

    Args:
        sources: where the results come from: files, or results in memory.
        group: the results, in the same order.

    Raises:
        ClatError: If two of them are of one network or run; it names both.
    """
    known: dict[str, str] = {}
    for record in group:
        weights = record.text("network", "weights")
        if weights is not None and weights in known:
            raise ClatError(
                f"{known[weights]} and {record.name} are of one network (weights {weights}), not of two seeds: "
                "give one of them"
            )
        if weights is not None:
            known[weights] = record.name
    seen: dict[Path, str] = {}
    for source, record in zip(sources, group, strict=True):
        run = run_of(source, record)
        if run is not None and run in seen:
            raise ClatError(
                f"{seen[run]} and {record.name} are two checkpoints of the run {run}, not two seeds: give one each"
            )
        if run is not None:
            seen[run] = record.name


def structure_notes(group: Sequence[EvaluationRecord]) -> list[str]:
    """Return a note on results that are called seeds and are of networks with different structures.

    Args:
        group: the results.

    Returns:
        One line, or none; results that do not say their structure are passed over.
    """
    told = {record.text("network", "structure"): record.name for record in reversed(group)}
    told.pop(None, None)
    if len(told) < 2:
        return []
    names = " and ".join(reversed(list(told.values())))
    return [f"{names} are of networks with different structures: they differ in more than the seed"]


def one_network_notes(group: Sequence[EvaluationRecord]) -> list[str]:
    """Return a note on results that are of one network, which differ by chance alone.

    Args:
        group: the results.

    Returns:
        One line, or none; results that do not say their weights are passed over.
    """
    for part in ("weights", "structure"):
        told = [record.text("network", part) for record in group]
        if None in told or len(set(told)) > 1:
            return []
    if len({tuple(record.verdicts()[0].tolist()) for record in group}) > 1:  # another normalisation, say
        return []
    return ["both are of one network: what differs is the attacks' random choices, by their seeds"]


def run_of(source: object, record: EvaluationRecord) -> Path | None:
    """Return the folder of the run whose weights a result is of.

    Args:
        source: where the result comes from: a file, or a result in memory.
        record: the result.

    Returns:
        The folder, where the file or its record tells; else None.
    """
    named = (source if isinstance(source, str | Path) else None, record.text("weights"))
    for place in named:  # RUN/evaluations/best.json, RUN/weights/best.safetensors
        if place is None:
            continue
        run = Path(place).resolve().parent.parent
        if (run / "run.json").is_file():
            return run
    return None
