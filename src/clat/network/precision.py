"""Know, here alone, how exactly a device computes, and change it and put it back as it was.

By default CUDA convolutions run in TensorFloat32, with ten bits of mantissa instead of 23, and
`torch.set_float32_matmul_precision` allows matrix products to, on a CPU even in bfloat16. Training is none the
worse for it, but which of two nearly equal logits is the larger may change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from clat.core.processor import bfloat16_units

T = TypeVar("T")

EXACT = ("none", "ieee")
"""What torch calls it: nothing else was asked for, or plain float32 was."""

NO_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Instruction sets that oneDNN can be held to by its environment variable, and that have no bfloat16 products."""


def computes_bfloat16(device: torch.device | str) -> bool:
    """Return whether a kind of device multiplies in bfloat16 itself.

    Others emulate it, at many times float32's cost.

    Args:
        device: "cpu", which is x86 processors with AVX512_BF16 or AMX, as torch's library for them uses; or "cuda",
            which is compute capability 8.0 and above.

    Returns:
        True where it does and neither a missing library nor oneDNN's environment variable keeps torch from it.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    held_to = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if held_to.upper() in NO_BFLOAT16 or not torch.backends.mkldnn.is_available():
        return False
    known = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    if any(known):
        return any(supported() for supported in known if supported is not None)
    return bool(bfloat16_units())  # an older torch does not say


@contextmanager
def exact_float32() -> Iterator[None]:
    """Have float32 be float32 inside: convolutions and matrix products use neither TensorFloat32 nor bfloat16.

    Afterwards every setting of torch's is as it was.
    """
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
    """Return whether float32 is float32 on `device` as the flags are now.

    Args:
        device: a CPU or CUDA device.

    Returns:
        True where neither convolutions nor matrix products use TensorFloat32 or bfloat16.
    """
    kind = "cpu" if device.type == "cpu" else "cuda"
    units = _units(kind)
    if units:
        return all(unit.fp32_precision in EXACT for unit in units)
    plain = torch.get_float32_matmul_precision() == "highest"
    return plain and (kind == "cpu" or not _cudnn_allows())


def _cudnn_allows() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)


def _older_flag(read: Callable[[], T]) -> T | None:
    """Return a flag, or None where a user has set a newer one, so that torch does not let the older be read."""
    try:
        return read()
    except RuntimeError:
        return None


def _units(device: str) -> list[Any]:
    """Return what of a kind of device has a precision of its own, in torch 2.9 and later."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    if device == "cpu":
        return [backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn]
    return [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
