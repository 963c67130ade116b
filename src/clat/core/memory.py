"""How much memory this process may still take."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def available_memory() -> int:
    """Return the bytes that this process can still take: of the machine, of its container and of its own limits.

    Where nothing is known of any of them, as on macOS and Windows, it is a very large number.

    Returns:
        Bytes, 0 or more.
    """
    found = [sys.maxsize, _of_machine(), _of_container(), *_of_process()]
    return max(min(known for known in found if known is not None), 0)


def _of_machine() -> int | None:
    """Return what the system could give without swapping."""
    return _kilobytes(_PROC / "meminfo", "MemAvailable")


def _of_container() -> int | None:
    """Return what the control group (version 2) leaves, where it has a limit; file caches count as free."""
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) - used + (int(cached[1]) if cached else 0)


def _of_process() -> list[int]:
    """Return what the limits of the process leave: of its address space, and of its data."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    left = []
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        taken = _kilobytes(_PROC / "self" / "status", used)
        if soft != resource.RLIM_INFINITY and taken is not None:
            left.append(soft - taken)
    return left


def _kilobytes(file: Path, field: str) -> int | None:
    """Return a field of a file of the kernel, in bytes; None where there is none."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def release_freed_memory() -> None:
    """Give memory that is free back to the system, where the C library has a way (glibc).

    It keeps what tensors of some megabytes leave behind, and those of the next part of a long task do not fit in.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
