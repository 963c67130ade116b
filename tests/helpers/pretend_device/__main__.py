"""Run a command of clat on the pretended device: python -m helpers.pretend_device FOLDER WORD ...

FOLDER keeps the compiled device. Where a command would take a GPU it takes this device instead; what it does only
where a tensor's device is called "cuda" (streams, pinned memory, peaks of memory) is not tried.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

NAME = "pretend"


def register(folder: Path) -> None:
    """Compile the device, unless that is done, and make it known to torch."""
    folder.mkdir(parents=True, exist_ok=True)
    source = str(Path(__file__).with_name("device.cpp"))
    load(
        "pretend_device", [source], is_python_module=False, extra_cflags=["-O1", "-w"], build_directory=str(folder)
    )
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    answers: dict[str, object] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_initialized": True,
    }
    answers |= {"_is_in_bad_fork": False, "get_amp_supported_dtype": [torch.bfloat16]}
    for name, answer in answers.items():
        setattr(module, name, lambda answer=answer: answer)
    module.manual_seed_all = module.manual_seed = lambda seed: None
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()


def take_the_place_of_the_gpu() -> None:
    """Let clat compute on the device wherever it is left to it, or asked for CUDA."""
    from clat.cli import inputs
    from clat.runtime import settings, single
    from clat.studies import measurement

    def on_the_device(process: single.SingleProcess, *, cuda: bool, bfloat16: bool) -> None:
        process.device, process.bfloat16 = torch.device(NAME, 0), bfloat16

    def as_auto(config: settings.EngineConfig) -> None:
        if config.device == NAME:
            object.__setattr__(config, "device", "auto")
        check(config)

    check = settings.EngineConfig.__post_init__
    single.SingleProcess.__init__ = on_the_device
    settings.EngineConfig.__post_init__ = as_auto
    inputs.pick_device = lambda name: torch.device("cpu" if name == "cpu" else NAME)
    measurement.computing_device = lambda: torch.device(NAME)


if __name__ == "__main__":
    register(Path(sys.argv[1]))
    take_the_place_of_the_gpu()
    from clat import cli

    sys.exit(cli.main(sys.argv[2:]))
