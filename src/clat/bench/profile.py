"""Where the time of a step goes, beside the least it could take on this machine.

Operations are grouped by what they do. For each group: the time measured, the time its arithmetic would take at the
measured peak of a matrix product, and the time its inputs and outputs would take at the measured bandwidth of a
copy. The larger of the two is the floor. Times carry the profiler's own overhead, so the shares are what to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from clat.bench.repeated_step import RepeatedStep
from clat.bench.timing import synchronize

GROUPS = {
    "convolution": ("convolution", "conv2d", "mm", "addmm", "bmm", "linear"),
    "normalisation": ("batch_norm", "layer_norm", "group_norm"),
    "nonlinearity": ("relu", "clamp_min", "threshold_backward", "silu", "gelu", "sigmoid"),
    "sums and copies": ("add", "copy_", "_to_copy", "clone", "cat", "slice_backward", "contiguous"),
}
"""Group -> words in the name of an operation; the first group that has one wins, `rest` takes the others."""


class Call(NamedTuple):
    """One operation: its arithmetic, 2 for each multiplication, and the bytes of its inputs and outputs."""

    flops: int
    bytes: int


class OperationCounter(TorchDispatchMode):
    """Counts arithmetic and bytes of every operation inside the context. Views do not count: they move nothing.

    Attributes:
        flops: group of operations -> arithmetic, 2 for each multiplication.
        bytes: group of operations -> bytes of inputs and outputs.
        calls: the operations one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "prim":  # prim: questions that fake tensors ask
            return found
        group, flops = group_of(func.__name__), 0
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            flops = count(*args, **(kwargs or {}), out_val=found)
            self.flops[group] = self.flops.get(group, 0) + flops
        moved = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor))
        self.bytes[group] = self.bytes.get(group, 0) + moved
        self.calls.append(Call(flops, moved))
        return found


def group_of(operation: str) -> str:
    """Return the group of GROUPS that an operation belongs to.

    Args:
        operation: its name, with or without "aten::" before it.

    Returns:
        The group, or "rest".
    """
    name = operation.removeprefix("aten::")
    return next((group for group, words in GROUPS.items() if any(word in name for word in words)), "rest")


def profile_step(made: RepeatedStep, precision: str) -> dict[str, Any]:
    """Return how the time of one training step is shared among groups of operations, each beside its floor.

    Args:
        made: the step; it is run twice.
        precision: "bf16-mixed", or another in which matrix products run in float32; chooses the measured peak.

    Returns:
        `flops_per_second` and `bytes_per_second` of this machine, `seconds` of the step, and `groups`: group ->
        seconds, share in [0, 1], arithmetic and bandwidth floor in seconds.
    """
    device = made.runner.engine.device
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    peak, bandwidth = peak_flops(device, dtype), peak_bandwidth(device)
    with OperationCounter() as traffic:
        made.run_step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as events:
        made.run_step()
        synchronize()
    seconds: dict[str, float] = {}
    for event in events.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if event.key.startswith("aten::"):
            seconds[group_of(event.key)] = seconds.get(group_of(event.key), 0.0) + spent / 1e6
    total = sum(seconds.values())
    groups = {
        group: {
            "seconds": spent,
            "share": spent / total,
            "arithmetic_floor": traffic.flops.get(group, 0) / peak,
            "bandwidth_floor": traffic.bytes.get(group, 0) / bandwidth,
        }
        for group, spent in sorted(seconds.items(), key=lambda item: -item[1])
    }
    return {"flops_per_second": peak, "bytes_per_second": bandwidth, "seconds": total, "groups": groups}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the arithmetic of the fastest of a few large matrix products, for each second.

    Args:
        device: where they run.
        dtype: of the matrices.

    Returns:
        Operations for each second, 2 for each multiplication.
    """
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: one @ other)


def peak_bandwidth(device: torch.device) -> float:
    """Return the bytes that the fastest of a few copies reads and writes, for each second.

    Args:
        device: where they run.

    Returns:
        Bytes for each second; the copies are too large for a cache.
    """
    source = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source))


def _fastest(run: Callable[[], object], rounds: int = 6) -> float:
    spent = []
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        spent.append(time.perf_counter() - start)
    return min(spent)
