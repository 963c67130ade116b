"""How long torch's threads wait for one another awake."""

from __future__ import annotations

import os

SPINS = "5000"
"""Rounds of waiting awake, about a tenth of a millisecond, where libgomp has 300,000. Alone on a machine that costs
next to nothing; beside other work small networks are many times faster: `benchmarks.openmp_wait`."""
_DECIDES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Let the threads of an operation that wait for one of theirs go to sleep soon, unless the user has said how.

    It has to be called before torch is loaded, whose libgomp reads the environment then; processes that are started
    inherit it. Other OpenMP libraries do not heed it.
    """
    if not any(name in os.environ for name in _DECIDES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
