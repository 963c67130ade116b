"""`clat doctor`: what this machine has and can do, to choose settings by and to put into a report of a fault."""

from __future__ import annotations

import argparse
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from clat.cli.console import say
from clat.cli.options import add_device_option, add_result_option
from clat.cli.outputs import Outputs
from clat.core.formatting import duration, memory

if TYPE_CHECKING:
    import torch

HELP = "versions, device, precision, data folders found, and a speed estimate"

PACKAGES = ("torch", "lightning-fabric", "datasets", "numpy", "scipy", "pydantic", "safetensors")
OPTIONAL = ("timm", "tensorboard", "shtab")

EPOCH, PASSES = 50_000, 11
"""Images in an epoch of CIFAR-10, and what PGD-AT with ten steps takes each of them through: ten times for the
attack, once for the loss."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat doctor`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--no-speed", action="store_true", help="leave the measurement out, a few seconds")
    add_device_option(parser)
    add_result_option(parser)


def run(options: argparse.Namespace) -> int:
    """Look at this machine, measure its speed, show both, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If --device names a device that is not there.
    """
    outputs = Outputs(options.out)
    from clat.cli.inputs import pick_device
    from clat.core.environment import describe_environment

    device = pick_device(options.device)
    found: dict[str, Any] = {
        "what": "doctor",
        "environment": describe_environment(device),
        "packages": {name: _version(name) for name in (*PACKAGES, *OPTIONAL)},
        "processor": _processor(),
        "gpus": _gpus(),
        "compiler": _compiler(device),
        "data": _data(),
    }
    _show(found)
    if not options.no_speed:
        from clat.bench.machine import pass_speed

        found["images_per_second"] = pass_speed(device)
        _show_speed(found["images_per_second"])
    outputs.write(found)
    return 0


def _show(found: dict[str, Any]) -> None:
    about, processor, data = found["environment"], found["processor"], found["data"]
    here = {name: number for name, number in found["packages"].items() if number is not None}
    missing = [name for name in OPTIONAL if name not in here]
    say(f"clat {about['clat']}, Python {about['python']}, {about['platform']}")
    say(", ".join(f"{name} {number}" for name, number in here.items()))
    if missing:
        say(f"not installed, and needed for little: {', '.join(missing)}")
    say(
        f"processor  {processor['name']}, {processor['capability']}, {processor['cores']} cores, "
        f"{about['threads']} in use, {memory(processor['memory'])}"
    )
    for gpu in found["gpus"]:
        bf16 = "bfloat16" if gpu["bfloat16"] else "no bfloat16"
        say(f"GPU        {gpu['name']}, {memory(gpu['memory'])}, {bf16}")
    if not found["gpus"]:
        say("GPU        none that torch sees")
    say(f"--compile  {found['compiler'] or 'not possible: there is no compiler'}")
    names = ", ".join(data["found"]) or "nothing"
    say(f"data       {data['folder']} ({data['chosen_by']}) holds {names}; digits come with clat")
    say(f"cache      {data['cache']}{'' if data['cache_writable'] else ', which cannot be written'}")


def _show_speed(speed: dict[str, float]) -> None:
    gain = speed["bfloat16"] / speed["float32"]
    advice = "use --precision bf16-mixed" if gain > 1.1 else "stay with float32"
    say(
        f"speed      ResNet-18 at 32 pixels, forward and backward: {speed['float32']:,.0f} images/s in float32, "
        f"{speed['bfloat16']:,.0f} in bfloat16: {advice}"
    )
    seconds = EPOCH * PASSES / max(speed.values())
    say(f"           so PGD-AT with ten steps takes about {duration(seconds)} an epoch of {EPOCH:,} images")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import torch

    from clat.core.processor import processor_name

    return {
        "name": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
    }


def _gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [
        {"name": one.name, "memory": one.total_memory, "bfloat16": torch.cuda.is_bf16_supported()} for one in found
    ]


def _compiler(device: torch.device) -> str | None:
    """Return what torch.compile would translate with."""
    if device.type == "cuda":
        return "triton" if find_spec("triton") else None
    return next((path for name in (os.environ.get("CXX", "g++"), "clang++") if (path := shutil.which(name))), None)


def _data() -> dict[str, Any]:
    from clat.data import cache_root, data_root

    folder, cache = data_root(), cache_root()
    held = sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
    nearest = next(one for one in (cache, *cache.parents) if one.exists())
    return {
        "folder": str(folder),
        "chosen_by": "CLAT_DATA_DIR" if os.environ.get("CLAT_DATA_DIR") else "CLAT_DATA_DIR is not set",
        "found": [name for name in held if not name.startswith(".")],
        "cache": str(cache),
        "cache_writable": os.access(nearest, os.W_OK),
    }
