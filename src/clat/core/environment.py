"""What a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and thread count, as plain data for a result file."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "clat": version("clat"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
    }
