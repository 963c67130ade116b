"""Libraries that tests of their networks need, or the reason why those are skipped."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType

import pytest
import torch

_declared: list[torch.library.Library] = []
"""Kept, since what a library declares goes with it."""


def need(module: str) -> ModuleType:
    """Return the module; the calling test is skipped where it is not installed or does not import.

    timm and transformers import torchvision where it is there. Its wheel for CUDA lacks two operators beside a CPU
    torch, without which it does not import; no classifier uses them, so declaring them is enough.
    """
    library = module.partition(".")[0]
    for name in (library, *(["torchvision"] if library == "timm" else [])):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    declare_operators()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:
        pytest.skip(f"{module} does not import here: {error}")


def declare_operators() -> None:
    """Declare the operators that torchvision's own import looks for, unless its library did."""
    if importlib.util.find_spec("torchvision") is None or _declared:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
