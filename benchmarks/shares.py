"""Two processes beside one on the same evaluation, with the robust images all at the end:

    python -m benchmarks.shares --out docs/results/benchmarks/shares.json

One thread a process. `busy` is the part of the time that each was at work and did not wait for others. Their sum,
less what smaller batches cost in CPU seconds, is the speed-up on cores with nothing else to do; the measured one
also has what the machine does besides.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

import clat
from benchmarks.foreign_networks import FILES, foreign_network
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.data import Loader
from clat.evaluation import dataset, evaluate, evaluate_set
from clat.runtime.engine import Engine, EngineConfig


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--network", default="cnn_a", choices=list(FILES))
    options.add_argument("--eps", default="8/255")
    options.add_argument("--protocol", default="apgd")
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    engine = Engine(EngineConfig(device="cpu", devices=chosen.processes))
    engine.launch()
    first = engine.rank == 0
    if first:
        claim_output(chosen.out)
    torch.set_num_threads(1)
    model = foreign_network(chosen.network)
    images = clat.load_split("cifar10", "test").take(chosen.images)
    settings = {"protocol": chosen.protocol, "eps": chosen.eps, "batch_size": 500}

    start, cpu_start, alone = time.perf_counter(), time.process_time(), None
    if first:  # the others wait
        x, y = next(iter(Loader(images, len(images), device="cpu").epoch()))
        alone = evaluate(model, x.contiguous(memory_format=torch.channels_last), y, **settings)
    one, cpu_alone = time.perf_counter() - start, time.process_time() - cpu_start
    order = engine.from_first(None if alone is None else torch.argsort(alone.robust.long(), stable=True))

    ends = note_ends()
    start, cpu_start = time.perf_counter(), time.process_time()
    shared = evaluate_set(model, images, ids=order, **settings)
    two = time.perf_counter() - start
    spent = engine.gather(
        {"busy": torch.tensor([ends[0] - start]), "cpu": torch.tensor([time.process_time() - cpu_start])}
    )
    if not first or alone is None:
        return
    busy = [float(seconds) / two for seconds in spent["busy"].flatten()]
    cpu_shared = float(spent["cpu"].sum())
    data = {
        "benchmark": "shares",
        **vars(chosen),
        "equal verdicts": bool(torch.equal(shared.robust, alone.robust[order])),
        "robust": int(alone.robust.sum()),
        "seconds, one process": round(one, 2),
        "seconds, shared": round(two, 2),
        "speed-up": round(one / two, 2),
        "busy": [round(part, 3) for part in busy],
        "cpu seconds, one process": round(cpu_alone, 2),
        "cpu seconds, shared": round(cpu_shared, 2),
        "speed-up on free cores": round(sum(busy) * cpu_alone / cpu_shared, 2),
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(data, indent=1))
    write_json(chosen.out, data)


def note_ends() -> list[float]:
    """Return a list to which the time is added when this process finds no further share and begins to wait."""
    ends: list[float] = []
    wait = dataset.wait_for_all

    def noted(world: int) -> None:
        ends.append(time.perf_counter())
        wait(world)

    dataset.wait_for_all = noted
    return ends


if __name__ == "__main__":
    main()
