"""Options that say where rows and shards run beside one another: on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clat.core.errors import ClatError, unknown

if TYPE_CHECKING:
    from clat.runtime.jobs.job import JobPlace

PLACES = ("local", "ray")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT])i?B?")
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def add_place_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that say how much runs at a time, and where.

    Args:
        parser: the command's parser, changed in place.
        what: what runs beside one another, such as "rows".
    """
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help=f"{what} at a time; GPUs and threads are divided among them (default: 1)",
    )
    parser.add_argument(
        "--on", help="local, or ray: a Ray cluster, whose machines share the folder (default: local)"
    )
    parser.add_argument(
        "--address", help="of the Ray cluster: auto, HOST:PORT (default: one that is started on this machine)"
    )
    parser.add_argument(
        "--cpus", type=int, metavar="N", help=f"on ray: CPUs that each process of the {what} asks for (default: 1)"
    )
    parser.add_argument("--memory", metavar="SIZE", help=f"on ray: memory that each of the {what} asks for, 16GB")


def check_place(options: argparse.Namespace) -> None:
    """Raise an error for options of `add_place_options` that do not go together.

    Args:
        options: what the parser read.

    Raises:
        ClatError: Some do not.
    """
    on = options.on or "local"
    if on not in PLACES:
        raise unknown("place", on, PLACES)
    if options.jobs is not None and options.jobs < 1:
        raise ClatError(f"--jobs is {options.jobs}: expected at least 1")
    for name in ("address", "cpus", "memory"):
        if on != "ray" and getattr(options, name) is not None:
            raise ClatError(f"--{name} belongs to a Ray cluster: add --on ray")
    if options.cpus is not None and options.cpus < 1:
        raise ClatError(f"--cpus is {options.cpus}: expected at least 1")


@contextmanager
def place_for(options: argparse.Namespace, folder: Path) -> Iterator[JobPlace | None]:
    """Open the place that the options name, and close it afterwards.

    Args:
        options: those of `add_place_options`.
        folder: where what runs there writes.

    Yields:
        The place; None: nothing runs beside anything else.

    Raises:
        ClatError: If the options do not go together, Ray is not installed, or its cluster does not answer.
    """
    check_place(options)
    on = options.on or "local"
    if on == "local":
        if options.jobs is None or options.jobs == 1:
            yield None
            return
        from clat.runtime.jobs.processes import LocalProcesses

        yield LocalProcesses(options.jobs)
        return
    from clat.runtime.jobs.cluster import RayCluster

    cluster = RayCluster(
        folder,
        address=options.address,
        count=options.jobs,
        cpus=options.cpus or 1,
        memory=None if options.memory is None else memory_size(options.memory),
    )
    try:
        yield cluster
    finally:
        cluster.close()


def memory_size(text: str) -> int:
    """Return a size in bytes.

    Args:
        text: such as "16GB" or "512 MB", in powers of ten.

    Returns:
        Bytes.

    Raises:
        ClatError: If it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise ClatError(f"--memory {text}: expected a size, such as 16GB")
    return round(float(found[1]) * _UNITS[found[2]])
