"""What a run's files after an epoch cost training: written before it goes on, and behind it.

    python -m benchmarks.state_writing --out docs/results/benchmarks/state_writing.json

Measured on a ResNet-18: seconds for which training stands still while the best weights and the state are written,
both ways, and how much a training step is slowed while a thread writes. The share of an epoch follows for any
length of it, also with the time that the slower steps lose as long as the writing lasts; 0.7 s is that of
docs/scaling.md's eight GPUs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clat.core.environment import describe_environment
from clat.core.files import write_json
from clat.models import build_model, save_weights
from clat.models.settings import ModelConfig
from clat.network.exchange import copied
from clat.training.state import Checkpoint, Progress, save_state
from clat.training.writer import BackgroundWriter

EPOCHS = (0.7, 10.0, 60.0)
"""Seconds of an epoch for which the share is given."""


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64, help="channels of the ResNet-18 (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="images of the step beside which is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.width, options.batch, options.rounds)
    print(json.dumps(found, indent=1))
    if options.out is not None:
        write_json(options.out, found)


def measure(width: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return what writing costs.

    Args:
        width: channels of the network.
        batch: images of the step that is timed beside the writing.
        rounds: times that everything is measured; medians are returned.

    Returns:
        Plain data: bytes, seconds, shares.
    """
    model = build_model(ModelConfig(name="resnet18", width=width), 10)
    momentum = {name: {"momentum_buffer": torch.zeros_like(one)} for name, one in model.named_parameters()}
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)

        def files(weights: dict[str, Any], saved: Checkpoint) -> None:
            save_weights(model, out / "best.safetensors", state=weights)
            save_state(out / "state.safetensors", saved, "hash")

        def stand() -> tuple[dict[str, Any], Checkpoint]:
            weights = model.state_dict()
            return weights, Checkpoint(Progress(), weights, momentum, {}, {})

        def before() -> None:
            files(*stand())

        writer = BackgroundWriter(torch.device("cpu"))

        def behind() -> None:
            weights, saved = stand()
            mine, state = copied(weights), saved.copied()
            writer.submit(lambda: files(mine, state))

        step()
        both: dict[str, list[float]] = {"before": [], "behind": [], "step": [], "step_beside": [], "write": []}
        for _ in range(rounds):
            both["before"].append(_seconds(before))
            both["step"].append(_seconds(step))
            start = time.perf_counter()
            both["behind"].append(_seconds(behind))
            both["step_beside"].append(_seconds(step))
            writer.wait()
            both["write"].append(time.perf_counter() - start)
        writer.close()
        size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    seconds = {name: statistics.median(values) for name, values in both.items()}
    lost = seconds["write"] * max(0.0, 1 - seconds["step"] / seconds["step_beside"])
    costs = {way: seconds[way] for way in ("before", "behind")}
    costs["behind, with slower steps"] = seconds["behind"] + lost
    return {
        "what": "state-writing",
        "network": f"resnet18, {width} channels",
        "bytes": size,
        "rounds": rounds,
        "seconds": seconds,
        "all_seconds": both,
        "share_of_epoch": {f"{epoch:g} s": {way: cost / epoch for way, cost in costs.items()} for epoch in EPOCHS},
        "step_slowed": seconds["step_beside"] / seconds["step"],
        "environment": describe_environment("cpu"),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
