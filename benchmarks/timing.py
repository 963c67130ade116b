"""Ratios of run times within one process: rounds are interleaved, the first is not counted, medians compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each candidate over `rounds` rounds in which all take turns, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
