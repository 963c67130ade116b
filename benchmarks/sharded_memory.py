"""Peak memory of a process that holds a network whole, and of one that holds a part of it (`engine.shard`).

    python -m benchmarks.sharded_memory --out docs/results/benchmarks/sharded_memory.json

Two gloo processes on this machine make two steps of PGD-AT (one attack step) with AdamW on a residual network of
linear layers with 50 million parameters. Of each process: the resident memory beyond that before the network was
built, at rest after the steps and at its peak within the second. CPU seconds are those of the second step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.environment import describe_environment
from clat.core.files import write_json
from clat.data import ImageSet, Loader
from clat.objectives import PgdAT
from clat.recipe.optimizer import TorchOptimizer
from clat.recipe.schema import DataConfig, Recipe, StageConfig
from clat.runtime.blocks import blocks_as
from clat.runtime.engine import Engine, EngineConfig
from clat.runtime.sharding import shared_out
from clat.training.stage import StageRunner

WIDTH, INNER, DEPTH, IMAGES = 1024, 4096, 6, 32
WAYS = {
    "whole": {},
    "shared out": {"shard": True},
    "shared out, blocks checkpointed": {"shard": True, "checkpoint_blocks": True},
}


class Block(nn.Module):
    """A residual block of two linear layers, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x), shaped like x."""
        grown: Tensor = x + self.contract(nn.functional.gelu(self.expand(self.norm(x))))
        return grown


def network() -> nn.Module:
    """Return the network, images (N, 3, 16, 16) to logits (N, 10).

    Returns:
        One with random weights.
    """
    blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
    return nn.Sequential(nn.Flatten(), nn.Linear(768, WIDTH), blocks, nn.Linear(WIDTH, 10))


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Return what a process takes, as one of two.

    Args:
        settings: of the engine.

    Returns:
        Bytes at rest and at the peak, and seconds of a step.
    """
    config = EngineConfig(device="cpu", devices=2, precision="32", channels_last=False, **settings)
    stage = StageConfig(name="pgd-at", epochs=1, objective=PgdAT(steps=1))
    recipe = Recipe(
        stages=(stage,),
        batch_size=2 * IMAGES,
        data=DataConfig(heldout=IMAGES),
        optimizer=TorchOptimizer(name="adamw"),
        engine=config,
    )
    engine = Engine(config)
    engine.launch()
    pixels = torch.randint(0, 256, (2 * IMAGES, 3, 16, 16), dtype=torch.uint8)
    images = ImageSet("noise", "train", tuple("abcdefghij"), pixels, torch.arange(2 * IMAGES) % 10)
    loader = Loader(images, 2 * IMAGES, device=engine.device, rank=engine.rank, world_size=2, drop_last=True)
    x, y = next(iter(loader.epoch()))
    before = _resident("VmRSS")
    model = network()
    with shared_out(model, engine) as part, blocks_as(config, part, IMAGES):
        runner = StageRunner(recipe, 0, part, engine, loader, (x, y))
        runner.make_trainable(None, {})
        runner.train_step(x, y, epoch=0, number=0, rate=1e-3)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        start = time.process_time()
        runner.train_step(x, y, epoch=0, number=0, rate=1e-3)
        seconds = time.process_time() - start
        peak, rest = _resident("VmHWM"), _resident("VmRSS")
    return {"at_rest_bytes": rest - before, "peak_bytes": peak - before, "step_cpu_seconds": seconds}


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def main() -> None:
    """Start two processes for each way, print what they take, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        torch.manual_seed(0)
        print(json.dumps(measure(WAYS[options.way])))
        return
    found = {
        "what": "sharded-memory",
        "parameters": sum(parameter.numel() for parameter in network().parameters()),
        "images_a_process": IMAGES,
        "ways": {way: _both(way) for way in WAYS},
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(found["ways"], indent=1))
    if options.out is not None:
        write_json(options.out, found)


def _both(way: str) -> list[dict[str, float]]:
    """Return what each of two processes measures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # What is freed goes back to the system, so that resident is what is in use.
    meeting |= {"MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
    meeting |= {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    command = [sys.executable, "-m", "benchmarks.sharded_memory", "--way", way]
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, **meeting, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate()[0] for process in both]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


if __name__ == "__main__":
    main()
