"""Say what kind of processor this machine has: speed and last bits depend on it."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch

BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")
"""Instructions that multiply in bfloat16, as Linux names them; the faster first."""


@cache
def processor_text() -> str:
    """Return what Linux says of the processor.

    Returns:
        The text of /proc/cpuinfo; empty elsewhere.
    """
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def processor_name() -> str:
    """Return the processor's name, such as "AMD EPYC 9554".

    Returns:
        The model that Linux names; elsewhere what Python knows, at least the architecture.
    """
    named = re.search(r"^model name[ \t]*:[ \t]*(\S.*)$", processor_text(), re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine() or "cpu"


def bfloat16_units() -> list[str]:
    """Return which of BFLOAT16_UNITS the processor has.

    Returns:
        Their names, the faster first; none where it has none, or where that cannot be told.
    """
    flags = re.search(r"^flags\b.*$", processor_text(), re.MULTILINE)
    words = flags[0].split() if flags else []
    return [unit for unit in BFLOAT16_UNITS if unit in words]


def describe_processor() -> str:
    """Return the kind of processor in a few words, for a result file.

    Returns:
        Its name, the vector instructions that torch uses on it, and its fastest unit for bfloat16 if it has one.
    """
    return ", ".join([processor_name(), torch.backends.cpu.get_cpu_capability(), *bfloat16_units()[:1]])
