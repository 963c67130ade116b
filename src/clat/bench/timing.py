"""Run times that can be compared: candidates take turns, the first round is not counted, medians are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from clat.core.progress import tell


@dataclass
class Timing:
    """Times of one candidate, one entry for each round.

    Attributes:
        wall: seconds.
        cpu: processor seconds of this process, in all its threads, which neighbours on a shared machine disturb
            less.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the median of `wall`."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """Return the median of `cpu`."""
        return statistics.median(self.cpu)


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time candidates in rounds in which each runs once, in turn.

    What disturbs the machine for a while then disturbs all of them, and ratios within a round stay true.

    Args:
        candidates: name -> what to run.
        rounds: rounds that are counted, at least 1.
        warmup: rounds before them that are not.

    Returns:
        Name -> its times, an entry for each round.
    """
    found = {name: Timing() for name in candidates}
    total = (warmup + rounds) * len(candidates)
    for number in range(warmup + rounds):
        for place, (name, run) in enumerate(candidates.items()):
            tell("timing steps", number * len(candidates) + place, total)
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            synchronize()
            if number >= warmup:
                found[name].wall.append(time.perf_counter() - wall)
                found[name].cpu.append(time.process_time() - cpu)
    tell("timing steps", total, total)
    return found


def ratio(one: Timing, other: Timing, clock: str = "wall") -> float:
    """Return how many times as long one candidate takes as another: the median of the rounds' ratios.

    Args:
        one: times of the candidate.
        other: times of what it is held against, from the same rounds.
        clock: "wall" or "cpu".

    Returns:
        The ratio, above 1 if `one` is slower.
    """
    pairs = zip(getattr(one, clock), getattr(other, clock), strict=True)
    return statistics.median(a / b for a, b in pairs)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
