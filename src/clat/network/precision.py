"""The one place that changes how exactly a device computes in float32, and puts it back as it was.

By default CUDA convolutions run in TensorFloat32, with ten bits of mantissa instead of 23, and
`torch.set_float32_matmul_precision` allows matrix products to, on a CPU even in bfloat16. Training is none the
worse for it, but which of two nearly equal logits is the larger may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")

EXACT = ("none", "ieee")
"""What torch calls it: nothing else was asked for, or plain float32 was."""


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 is float32: convolutions and matrix products use neither TensorFloat32 nor bfloat16."""
    matmul, cudnn = _older_flag(torch.get_float32_matmul_precision), _older_flag(_cudnn_allows)
    before = [(unit, unit.fp32_precision) for device in ("cpu", "cuda") for unit in _units(device)]
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for unit, _ in before:
            if unit.fp32_precision not in EXACT:
                unit.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn
        for unit, value in before:
            if unit.fp32_precision != value:
                unit.fp32_precision = value


def is_exact(device: torch.device) -> bool:
    """Whether float32 is float32 on `device` as the flags are now."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    units = _units(kind)
    if units:
        return all(unit.fp32_precision in EXACT for unit in units)
    plain = torch.get_float32_matmul_precision() == "highest"
    return plain and (kind == "cpu" or not _cudnn_allows())


def _cudnn_allows() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)


def _older_flag(read: Callable[[], T]) -> T | None:
    """None where a user has set one of the newer flags, so that torch does not let the older be read."""
    try:
        return read()
    except RuntimeError:
        return None


def _units(device: str) -> list[Any]:
    """What of a kind of device has a precision of its own, in torch 2.9 and later."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    if device == "cpu":
        return [backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn]
    return [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
