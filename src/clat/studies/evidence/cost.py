"""What a step of CLAT takes in units of one of X's: measured in turns, so that no neighbour moves the ratio."""

from __future__ import annotations

from typing import Any

from torch import nn

from clat.bench.timing import ratio
from clat.core.environment import describe_environment
from clat.data import ImageSet, hold_out
from clat.models import load_weights
from clat.studies.measurement import computing_device
from clat.studies.paper.step_cost import ROUNDS, clock, step_times
from clat.studies.paper.store import Store
from clat.studies.paper.stored import StoredRun
from clat.training.prepare import build_network, read_split

HANDED_OVER = "stage-1"
"""The weights that a form of CLAT begins with, by which it selects its layers."""


def step_ratio(store: Store, run: StoredRun) -> float:
    """Return the time of a step of a run's last stage over that of its first, selections aside.

    It is measured once, from the weights at the end of the first stage, and kept in the store.

    Args:
        store: where the run is.
        run: a finished run of "X + CLAT".

    Returns:
        The ratio, below 1 where CLAT's step costs less; on a CPU by the process's own seconds.

    Raises:
        ClatError: If a step cannot be measured.
    """
    about = {"run": run.key, "rounds": ROUNDS}
    return float(store.kept("steps", about, lambda: _measured(store, run), [run], HANDED_OVER)["ratio"])


def _measured(store: Store, run: StoredRun) -> dict[str, Any]:
    first, last = run.recipe.stages[0], run.recipe.stages[-1]
    times = step_times(store, run, {"x": first, "clat": last}, start=_handed_over(store, run))
    by = clock()
    return {
        "ratio": ratio(times["clat"], times["x"], by),
        "clock": by,
        "seconds": {name: getattr(of, by) for name, of in times.items()},
        "environment": describe_environment(computing_device()),
    }


def _handed_over(store: Store, run: StoredRun) -> tuple[nn.Module, ImageSet]:
    """Return the network that CLAT begins with, and a batch of held-out images: test images stay unread."""
    config = run.recipe.data
    held = hold_out(read_split(config, "train"), config.heldout, config.split_seed, config.train_size)[1]
    model = build_network(run.recipe, held.num_classes, held.shape[0])
    load_weights(model, store.folder / "runs" / run.key / "weights" / f"{HANDED_OVER}.safetensors")
    return model, held.take(min(run.recipe.batch_size, len(held)))
