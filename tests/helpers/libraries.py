"""Libraries that tests of their networks need, or the reason why those are skipped."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

APART = Path(sys.prefix) / "torchvision"
"""Where the Makefile puts torchvision: beside the packages, since its wheel for CUDA does not import next to a CPU
torch by itself, and transformers imports it where it is found."""

_declared: list[torch.library.Library] = []
"""Kept, since what a library declares goes with it."""


def need(module: str) -> ModuleType:
    """Return the module; the calling test is skipped where it is not installed or does not import."""
    library = module.partition(".")[0]
    if library in ("timm", "torchvision"):
        _find_torchvision()
    for name in (library, *(["torchvision"] if library == "timm" else [])):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    _declare_operators()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:
        pytest.skip(f"{module} does not import here: {error}")


def _find_torchvision() -> None:
    if APART.is_dir() and str(APART) not in sys.path and importlib.util.find_spec("torchvision") is None:
        sys.path.append(str(APART))
        importlib.invalidate_caches()


def _declare_operators() -> None:
    """Declare the two operators that torchvision looks for when it is imported, where its own library could not. No
    classifier uses them."""
    if importlib.util.find_spec("torchvision") is None or _declared:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
