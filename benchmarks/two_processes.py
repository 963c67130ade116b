"""Two processes on two cores beside one: images that PGD-AT and CLAT train on in a second.

    python -m benchmarks.two_processes --out docs/results/benchmarks/two_processes.json

One thread a process, a batch of 128 for each, gradients exchanged by gloo; ResNet-18 of 16 channels on CIFAR-10.
Rounds take turns: in one both processes train together, in the next the first trains alone and the other sleeps. So
what disturbs the machine for a while disturbs both; medians of the rounds' ratios are reported. The machine must
have nothing else to do: with one core's worth of other work no two processes can be twice as fast as one.
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
    def world(self) -> int:
        """Return 1."""
        return 1


def together() -> None:
    """Wait until all processes are here, without taking a core from those that still work."""
    all_here = dist.all_reduce(torch.zeros(1), async_op=True)
    while not all_here.is_completed():
        time.sleep(0.002)
    all_here.wait()


def timed(step: RepeatedStep | None, steps: int) -> float:
    """Return the seconds of some steps, from when all processes are here to when all are again.

    Args:
        step: what this process does; None: nothing.
        steps: how many.

    Returns:
        Wall seconds.
    """
    together()
    start = time.perf_counter()
    if step is not None:
        for _ in range(steps):
            step.run_step()
    together()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--layer", type=int, default=11, help="the layer that CLAT moves (default: 11)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of each round")
    parser.add_argument("--precision", default="auto")
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
            single = stack.enter_context(repeated_step(model, images, stage, alone, config))
            own = single if first else None
            seconds: dict[str, list[float]] = {"two": [], "one": []}
            for number in range(options.rounds + 1):
                pair = {"two": timed(both, options.steps), "one": timed(own, options.steps)}
                if number:  # the first round is not counted
                    for key, value in pair.items():
                        seconds[key].append(value)
        images_a_second = {
            key: count * BATCH * options.steps / statistics.median(seconds[key])
            for key, count in (("one", 1), ("two", 2))
        }
        ratios = [2 * one / two for one, two in zip(seconds["one"], seconds["two"], strict=True)]
        rows[name] = {
            "images a second": images_a_second,
            "two over one": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "seconds of a round": seconds,
        }
    if not first:
        return
    found = {
        "benchmark": "two_processes",
        "batch of a process": BATCH,
        **{key: value for key, value in vars(options).items() if key != "out"},
        "rows": rows,
        "load before": os.getloadavg(),
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
