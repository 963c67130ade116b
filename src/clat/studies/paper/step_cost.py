"""What a training step of each of several stages takes, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from torch import nn

from clat.bench.repeated_step import repeated_step
from clat.bench.timing import Timing, interleaved
from clat.data import ImageSet
from clat.models import build_model
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine
from clat.studies.cost import without_weights
from clat.studies.measurement import computing_device
from clat.studies.paper.store import Store
from clat.studies.paper.stored import StoredRun

ROUNDS = 3


def network_and_batch(store: Store, run: StoredRun) -> tuple[nn.Module, ImageSet]:
    """Return a new network of a run, and a batch of its data, or as much of one as there is.

    Args:
        store: knows where the data lie.
        run: gives network, data and batch size.

    Returns:
        The network without its weights, and images of the test split.

    Raises:
        ClatError: If the network cannot be built.
    """
    images = store.test_images(run)
    model = build_model(without_weights(run.recipe.model), images.num_classes, images.shape[0])
    return model, images.take(min(run.recipe.batch_size, len(images)))


def step_times(
    store: Store,
    run: StoredRun,
    stages: Mapping[str, StageConfig],
    start: tuple[nn.Module, ImageSet] | None = None,
) -> dict[str, Timing]:
    """Return the times of a training step of each stage, on a network of a run and a batch of its data.

    Args:
        store: knows where the data lie.
        run: gives network, data, batch size and precision.
        stages: name -> stage.
        start: the network and the batch; None: a new network, and images of the test split.

    Returns:
        Name -> times of ROUNDS rounds in which the stages take turns, selections aside.
    """
    config = run.recipe.engine
    model, batch = network_and_batch(store, run) if start is None else start
    with ExitStack() as opened:
        engine = Engine(config)
        steps = {
            name: opened.enter_context(repeated_step(model, batch, stage, engine, config)).run_step
            for name, stage in stages.items()
        }
        return interleaved(steps, ROUNDS)


def clock() -> str:
    """Return by which clock steps are compared.

    Returns:
        "cpu" on a CPU, by whose own seconds neighbours disturb less; else "wall".
    """
    return "cpu" if computing_device().type == "cpu" else "wall"
