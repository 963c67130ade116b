"""Run times that can be compared: candidates take turns, the first round is not counted, medians are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class Timing:
    """One entry a round. `wall`: seconds; `cpu`: processor seconds of this process, in all its threads, which
    neighbours on a shared machine disturb less."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of `wall`."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """The median of `cpu`."""
        return statistics.median(self.cpu)


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """`rounds` rounds in which every candidate runs once, in turn, after `warmup` rounds that are not counted."""
    found = {name: Timing() for name in candidates}
    for number in range(warmup + rounds):
        for name, run in candidates.items():
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            synchronize()
            if number >= warmup:
                found[name].wall.append(time.perf_counter() - wall)
                found[name].cpu.append(time.process_time() - cpu)
    return found


def ratio(one: Timing, other: Timing, clock: str = "wall") -> float:
    """The median over the rounds of one's seconds over the other's in the same round. `clock`: "wall" or "cpu"."""
    pairs = zip(getattr(one, clock), getattr(other, clock), strict=True)
    return statistics.median(a / b for a, b in pairs)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
