"""Two processes on two cores beside one: images that PGD-AT and CLAT train on in a second.

    python -m benchmarks.two_processes --out docs/results/benchmarks/two_processes.json

One thread a process, a batch of 128 for each, gradients exchanged by gloo; ResNet-18 of 16 channels on CIFAR-10.
Rounds take turns: both processes train together; both train at the same time, but each by itself; the first trains
alone while the other sleeps. So what disturbs the machine for a while disturbs all; the medians of the rounds are
reported. What two processes that exchange nothing reach is what the machine allows: less than 2 where its cores
share caches and memory, or have something else to do. Processes that exchange gradients wait in each step for the
slower one, which costs where a core's speed changes from step to step: so the seconds that they compute are
reported as well.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist

import clat
from clat.bench.repeated_step import RepeatedStep, repeated_step
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.criticality.selection import Selection
from clat.objectives import Clat, PgdAT
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig

BATCH = 128
"""Images of each process's batch."""


class EngineAlone(Engine):
    """The engine of a process that exchanges nothing with others, which there are."""

    @property
    def rank(self) -> int:
        """Return 0."""
        return 0

    @property
    def world(self) -> int:
        """Return 1."""
        return 1


def together() -> None:
    """Wait until all processes are here, without taking a core from those that still work."""
    all_here = dist.all_reduce(torch.zeros(1), async_op=True)
    while not all_here.is_completed():
        time.sleep(0.002)
    all_here.wait()


def timed(step: RepeatedStep | None, steps: int) -> tuple[float, float]:
    """Return the seconds of some steps, from when all processes are here to when all are again.

    Args:
        step: what this process does; None: nothing.
        steps: how many.

    Returns:
        Wall seconds, and the CPU seconds of all processes' steps, without what they wait for one another.
    """
    together()
    start, computed = time.perf_counter(), torch.zeros(1, dtype=torch.float64)
    if step is not None:
        computed -= time.process_time()
        for _ in range(steps):
            step.run_step()
        computed += time.process_time()
    together()
    wall = time.perf_counter() - start
    dist.all_reduce(computed)
    return wall, computed.item()


def _ratio(slower: list[float], faster: list[float], factor: int) -> dict[str, float]:
    """Return the median of the rounds' ratios, and the least and the greatest."""
    ratios = [factor * one / two for one, two in zip(slower, faster, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--layer", type=int, default=11, help="the layer that CLAT moves (default: 11)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of each round")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--machine", default="", help="what it runs on, for the record")
    parser.add_argument("--out")
    options = parser.parse_args()
    config = EngineConfig(device="cpu", devices=2, precision=options.precision)
    engine = Engine(config)
    engine.launch()
    first = engine.rank == 0
    if first and options.out:
        claim_output(options.out)
    torch.set_num_threads(1)
    alone = copy.copy(engine)
    alone.__class__ = EngineAlone
    torch.manual_seed(0)
    model = clat.load_model("resnet18", num_classes=10, width=options.width)
    train = clat.load_split("cifar10", "train")
    images = train.subset(range(engine.rank * BATCH, (engine.rank + 1) * BATCH))
    stages = {
        "pgd-at": StageConfig(name="pgd-at", epochs=1, objective=PgdAT()),
        "clat": StageConfig(
            name="clat", epochs=1, objective=Clat(), selection=Selection(rule="named", layers=(options.layer,))
        ),
    }
    rows: dict[str, Any] = {}
    for name, stage in stages.items():
        with ExitStack() as stack:
            both = stack.enter_context(repeated_step(model, images, stage, engine, config))
            own = stack.enter_context(repeated_step(model, images, stage, alone, config))
            ways = {"two": both, "apart": own, "one": own if first else None}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            computed: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(options.rounds + 1):
                for way, step in ways.items():
                    wall, cpu = timed(step, options.steps)
                    if number:  # the first round is not counted
                        seconds[way].append(wall)
                        computed[way].append(cpu)
        rows[name] = {
            "images a second": {
                way: (1 if way == "one" else 2) * BATCH * options.steps / statistics.median(seconds[way])
                for way in ways
            },
            "two over one": _ratio(seconds["one"], seconds["two"], 2),
            "two over one, nothing exchanged": _ratio(seconds["one"], seconds["apart"], 2),
            "two over one, by CPU seconds": _ratio(computed["one"], [cpu / 2 for cpu in computed["two"]], 2),
            "exchange": _ratio(seconds["apart"], seconds["two"], 1),
            "seconds of a round": seconds,
            "CPU seconds of a round": computed,
        }
    if not first:
        return
    data = {
        "benchmark": "two_processes",
        "batch of a process": BATCH,
        **{key: value for key, value in vars(options).items() if key != "out"},
        "rows": rows,
        "load before": os.getloadavg(),
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(data, indent=1))
    if options.out:
        write_json(options.out, data)


if __name__ == "__main__":
    main()
