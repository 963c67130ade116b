"""Errors that code of the user's own raises, in the midst of a command: one line that says where."""

from __future__ import annotations

import traceback
from pathlib import Path

from clat.core.errors import ClatError
from clat.core.own_code import is_users

_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def told(error: BaseException) -> ClatError | None:
    """Return the line for an error of the user's own code, or of torch on its way back through a network.

    Args:
        error: what a command raised, caught in `clat.cli`.

    Returns:
        The error to show; None for any other.
    """
    of_gpu = type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be loaded here
    if of_gpu or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
        place = "the GPU's memory" if of_gpu else "memory"
        return ClatError(
            f"{place} is full: give a smaller --batch-size, or in training micro_batch or engine.checkpoint_blocks"
        )
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if is_users(step.filename)]
    if own:
        where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"
        return ClatError(f"your own code failed, {_reason(error)} ({where})")
    if steps and Path(steps[-1].filename).parent.parts[-2:] == ("torch", "autograd"):
        return ClatError(f"the backward pass through the network failed, {_reason(error)}")
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it left with exit code {error.code!r}"
    said = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
