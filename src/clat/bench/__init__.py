"""The cost of a training step: time, memory, passes, and how far it is from the arithmetic that must be done."""

from __future__ import annotations

from clat.bench.run import Bench, Timed, measure
from clat.bench.timing import Timing, interleaved, ratio

__all__ = ["Bench", "Timed", "Timing", "interleaved", "measure", "ratio"]
