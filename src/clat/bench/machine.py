"""How fast a machine is at what adversarial training consists of, in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from clat.bench.timing import interleaved
from clat.core.random_states import preserve_all_states
from clat.models import load_model

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def pass_speed(device: torch.device, *, batch_size: int | None = None, rounds: int = 2) -> dict[str, float]:
    """Return images per second through ResNet-18, 32 x 32 pixels, forward and back to every weight.

    Args:
        device: where the network runs.
        batch_size: images at once; None: 16 on a CPU, 256 on a GPU.
        rounds: rounds in which the precisions take turns; the median counts.

    Returns:
        Precision ("float32"; "bfloat16" under autocast, as in `--precision bf16-mixed`) -> images per second.
    """
    size = batch_size or (16 if device.type == "cpu" else 256)
    with preserve_all_states():
        torch.manual_seed(0)
        model = load_model("resnet18").to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(size, 3, 32, 32).to(device, memory_format=torch.channels_last)

    def through(precision: torch.dtype | None) -> Callable[[], object]:
        def run() -> None:
            context = nullcontext() if precision is None else torch.autocast(device.type, precision)
            with context:
                total = model(x).sum()
            torch.autograd.grad(total, (*model.parameters(),))

        return run

    times = interleaved({name: through(precision) for name, precision in PRECISIONS.items()}, rounds)
    return {name: size / timing.seconds for name, timing in times.items()}
