"""How long a run will still take, from the pace of its steps so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import accumulate

from clat.objectives import Objective
from clat.recipe.schema import Recipe

MEASURED_SECONDS = 2.0
"""Of training, before an estimate is made of it."""


class RunPace:
    """Estimates the seconds that are left of a run.

    The epochs of a stage are weighed by the passes that its objective takes each batch through, so that the pace
    of PGD-AT with ten steps says something of a stage with one. Checks and selections count once they have been.

    Args:
        recipe: the run's stages.
        batches: of an epoch.
        clock: the time in seconds.
    """

    def __init__(self, recipe: Recipe, batches: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.began = clock, (0.0, -1.0)
        weights = (passes(stage.objective) for stage in recipe.stages for _ in range(stage.epochs))
        self.before = [0, *accumulate(batches * weight for weight in weights)]
        self.batches = batches

    def within(self, epoch: int) -> Callable[[int], float | None]:
        """Return what estimates the seconds that are left after a step of an epoch.

        Args:
            epoch: of the run, from 0.

        Returns:
            A function of the batches that are done of it. Its first call starts the clock; seconds do not include
            the tests after the training, and are None before there is enough to go by.
        """
        here, after = self.before[epoch : epoch + 2]

        def left(batch: int) -> float | None:
            done = here + (after - here) * batch / self.batches
            since, first = self.began
            if first < 0:
                self.began = self.clock(), done  # after the first step, which may compile and fill caches
                return None
            spent = self.clock() - since
            return None if spent < MEASURED_SECONDS else spent / (done - first) * (self.before[-1] - done)

        return left


def passes(objective: Objective) -> int:
    """Return about how many passes a batch is taken through: the attack's steps, and the loss's own.

    Args:
        objective: of a stage.

    Returns:
        A weight to compare objectives by.
    """
    steps = 1 if objective.one_step else getattr(objective, "steps", 0)
    return objective.replays * (1 + steps)
