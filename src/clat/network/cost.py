"""Count what a computation costs: forward and backward passes by sample, seconds, peak memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.network.outputs import first_tensor


@dataclass
class Cost:
    """The cost of a computation; costs of its parts add up to it.

    Attributes:
        forwards: samples passed through the network; a pass that stops at a hidden layer counts as one.
        backwards: samples whose gradient was passed back through it.
        seconds: wall time.
        peak_memory_bytes: of the device's allocator on CUDA, of the whole process on CPU, where it also holds what
            came before; None where it was not measured.
    """

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def __add__(self, other: Cost) -> Cost:
        peaks = [peak for peak in (self.peak_memory_bytes, other.peak_memory_bytes) if peak is not None]
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.seconds + other.seconds,
            max(peaks, default=None),
        )


_measured: ContextVar[bool] = ContextVar("_measured", default=False)
"""Whether the peak of memory is being measured around this."""


@contextmanager
def metered(model: nn.Module, *, memory: bool = True) -> Iterator[Cost]:
    """Count the passes through `model`, the time and the memory that the code inside takes.

    Args:
        model: the network; hooks at its outermost call count.
        memory: whether the peak is measured. CUDA has one: of a part of something metered it is the whole's so far.

    Yields:
        The cost, which is complete on leaving.
    """
    cost = Cost()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def count_backward(gradient: Tensor | None) -> None:
        cost.backwards += 0 if gradient is None else len(gradient)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = first_tensor(args)
        if x is None:
            return
        cost.forwards += len(x)
        # An attack differentiates towards its input, wherever its value was read; the loss towards weights.
        if torch.is_grad_enabled() and x.requires_grad:
            x.register_hook(count_backward)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        x, logits = first_tensor(args), first_tensor(output)
        if logits is not None and logits.requires_grad and x is not None and not x.requires_grad:
            logits.register_hook(count_backward)

    outer = _measured.get()
    if memory and device.type == "cuda" and not outer:
        torch.cuda.reset_peak_memory_stats(device)
    token = _measured.set(outer or memory)
    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    start = time.perf_counter()
    try:
        yield cost
    finally:
        _measured.reset(token)
        for hook in hooks:
            hook.remove()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if memory:
            cost.peak_memory_bytes = _peak_memory(device)
        cost.seconds = time.perf_counter() - start


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts what a process was started from in ru_maxrss, and not here
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])  # type: ignore[index]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
