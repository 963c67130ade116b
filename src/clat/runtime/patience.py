"""Waiting of processes for one another, for as long as it takes: a collective gives up after half an hour."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch.distributed as dist

PAUSE = 0.05
"""Seconds between two looks."""

_calls = itertools.count()


def common_store() -> Any:
    """Return the store through which the processes met, for which torch.distributed has no public name.

    Returns:
        The store, in which `add(key, n)` adds to a counter that all have in common and returns it.
    """
    return dist.distributed_c10d._get_default_store()


def wait_for_all(world: int) -> None:
    """Wait until every process has called this as often. Signals get through, which they do not in a collective.

    Args:
        world: how many processes there are; of one nothing is waited for.

    Raises:
        RuntimeError: the process that holds the store is gone.
    """
    if world == 1:
        return
    store, key = common_store(), f"clat-all-here-{next(_calls)}"
    store.add(key, 1)
    while store.add(key, 0) < world:
        time.sleep(PAUSE)
