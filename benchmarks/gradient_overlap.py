"""Gradients of several processes averaged after the backward pass, or in buckets behind it.

    python -m benchmarks.gradient_overlap --out docs/results/benchmarks/gradient_overlap.json

Two gloo processes on this machine, one thread each, make the same forward and backward pass each way in turn, in
half of the rounds the other way round. *after*: `Engine.average_gradients`, what a step does, in buckets of 5 MiB.
*one message*: all in one, after the pass. *behind*: a bucket of parameters is sent once all of its gradients are
there, while the pass goes on. *alone*: no message at all. All but the last end with the same gradients. Ratios of
wall seconds over *after*: the median of the rounds, and that of the fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clat.core.environment import describe_environment
from clat.core.files import write_json
from clat.models import build_model
from clat.models.settings import ModelConfig
from clat.runtime.engine import Engine, EngineConfig

BUCKETS_MIB = (1, 5, 25)
IMAGES = 16


class OverlappedGradients:
    """Averages the gradients of parameters while the backward pass goes on.

    Args:
        parameters: what moves, the same in every process, in the network's order.
        bucket_bytes: a bucket is sent when so many bytes of gradients are there.
        behind: send it at once, not all at the end.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int, *, behind: bool = True) -> None:
        self.buckets: list[list[nn.Parameter]] = [[]]
        self.place: dict[nn.Parameter, int] = {}
        size = 0
        for parameter in reversed(list(parameters)):
            if size >= bucket_bytes:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            self.place[parameter] = len(self.buckets) - 1
            size += parameter.numel() * parameter.element_size()
        hooked = self.place if behind else {}
        self.handles = [one.register_post_accumulate_grad_hook(self._arrived) for one in hooked]
        self._begin()

    def _begin(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent: list[tuple[Tensor, Any]] = []

    def _arrived(self, parameter: Tensor) -> None:
        self.missing[self.place[parameter]] -= 1  # type: ignore[index]
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
            self._send()

    def _send(self) -> None:
        """Send the next bucket; all processes send them in the same order."""
        bucket = self.buckets[len(self.sent)]
        flat = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in bucket])
        self.sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self, engine: Engine) -> None:
        """Send what is left, and wait until all gradients are the mean over the processes.

        Args:
            engine: the processes, which agree on a step's three flags and on which gradients there are.
        """
        while len(self.sent) < len(self.buckets):
            self._send()
        there = [False, False, False, *(p.grad is not None for p in self.place)]
        engine.total(torch.tensor(there, dtype=torch.int64))
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.div_(engine.world).view_as(parameter)
        self._begin()

    def close(self) -> None:
        """Leave the parameters alone."""
        for handle in self.handles:
            handle.remove()


def networks() -> dict[str, tuple[nn.Module, list[nn.Parameter]]]:
    """Return what is measured: networks with what moves of them.

    Returns:
        Much arithmetic a weight, and little. A layer of CLAT's is one bucket, whichever way.
    """
    resnet = build_model(ModelConfig(name="resnet18", width=64), 10)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.Linear(2048, 10))
    return {
        "resnet18, width 64": (resnet, list(resnet.parameters())),
        "three linear layers": (wide, list(wide.parameters())),
    }


def measure(rounds: int) -> dict[str, Any]:
    """Return the seconds of both ways, as one of two processes.

    Args:
        rounds: times that everything is measured.

    Returns:
        By network: megabytes of gradients, seconds by way, ratios.
    """
    engine = Engine(EngineConfig(device="cpu", devices=2, precision="32"))
    engine.launch()
    x, y = torch.rand(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))
    found = {}
    for name, (model, moving) in networks().items():
        engine.share(model)

        def backward(net: nn.Module = model, parameters: list[nn.Parameter] = moving) -> None:
            for parameter in parameters:
                parameter.grad = None
            nn.functional.cross_entropy(net(x), y).backward()

        def after(run: Callable[[], None] = backward, parameters: list[nn.Parameter] = moving) -> None:
            run()
            engine.average_gradients(parameters, (False, False, False))

        def buckets(
            mebibytes: int,
            behind: bool,
            run: Callable[[], None] = backward,
            parameters: list[nn.Parameter] = moving,
        ) -> Callable[[], None]:
            def step() -> None:
                overlapped = OverlappedGradients(parameters, mebibytes * 2**20, behind=behind)
                run()
                overlapped.finish(engine)
                overlapped.close()

            return step

        ways = {"after": after, "one message": buckets(10_000, False)}
        ways |= {f"behind, {size} MiB": buckets(size, True) for size in BUCKETS_MIB} | {"alone": backward}
        after()
        expected = [parameter.grad.clone() for parameter in moving if parameter.grad is not None]
        ways["behind, 1 MiB"]()
        for parameter, gradient in zip(moving, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in list(ways)[:: 1 if number % 2 else -1]:
                engine.wait()
                start = time.perf_counter()
                ways[way]()
                engine.wait()
                seconds[way].append(time.perf_counter() - start)
        found[name] = {
            "gradients_mb": sum(p.numel() for p in moving) * 4 / 1e6,
            "seconds": {way: statistics.median(values) for way, values in seconds.items()},
            "over_after": {
                way: {
                    "median": statistics.median(a / b for a, b in zip(values, seconds["after"], strict=True)),
                    "fastest": min(values) / min(seconds["after"]),
                }
                for way, values in seconds.items()
                if way != "after"
            },
            "all_seconds": seconds,
        }
    return found


def main() -> None:
    """Start two processes, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        meeting |= {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"}
        again = [sys.executable, "-m", "benchmarks.gradient_overlap", *sys.argv[1:]]
        both = [
            subprocess.Popen(again, env={**os.environ, **meeting, "RANK": rank, "LOCAL_RANK": rank})
            for rank in "01"
        ]
        raise SystemExit(max(process.wait() for process in both))
    torch.manual_seed(int(os.environ["RANK"]))
    found = {
        "what": "gradient-overlap",
        "processes": 2,
        "images": IMAGES,
        "rounds": options.rounds,
        "networks": measure(options.rounds),
        "environment": describe_environment("cpu"),
    }
    if os.environ["RANK"] == "0":
        print(json.dumps({name: one["over_after"] for name, one in found["networks"].items()}, indent=1))
        if options.out is not None:
            write_json(options.out, found)


if __name__ == "__main__":
    main()
