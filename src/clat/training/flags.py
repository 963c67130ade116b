"""What processes tell one another with each step: whether one was asked to stop, and whether a state is due."""

from __future__ import annotations

import time
from collections.abc import Callable

from clat.runtime.engine import Engine
from clat.training.interrupt import StopFlag, stop_if_asked


class StepFlags:
    """The two flags, which go in one message with that of a loss which is not finite (`Engine.average_gradients`).

    A single process looks at its own after the step. Several agree in the midst of it, when the gradients are
    there: a signal that comes later is heeded with the next step.

    Args:
        stop: this process's.
        engine: the processes.
        seconds: after so many a state is due.
    """

    def __init__(self, stop: StopFlag, engine: Engine, seconds: float) -> None:
        self.stop, self.engine, self.seconds = stop, engine, seconds
        self._saved = time.perf_counter()
        self._agreed = (False, False)

    def own(self) -> tuple[bool, bool]:
        """Return this process's flags: asked to stop, a state is due."""
        return bool(self.stop.number), time.perf_counter() - self._saved > self.seconds

    def agree(self, stop: bool, save: bool) -> None:
        """Note what was set in any process, until the step's end.

        Args:
            stop: one was asked to stop.
            save: for one a state is due.
        """
        before = self._agreed  # of the same batch: it may be trained on several times
        self._agreed = before[0] or stop, before[1] or save

    def stop_if_asked(self, before: Callable[[], None]) -> None:
        """Stop if any process was asked to. All processes must call it after each step.

        Args:
            before: what is to be done first.

        Raises:
            Interrupted: a process was asked to.
        """
        stop_if_asked(self.stop, self.engine, before, agreed=None if self.engine.world == 1 else self._agreed[0])

    def save_due(self) -> bool:
        """Return whether a state is due, after which the next one is as many seconds away.

        Returns:
            The same answer in every process.
        """
        due = self.own()[1] if self.engine.world == 1 else self._agreed[1]
        self._agreed = (False, False)
        return due

    def saved(self) -> None:
        """Count the seconds from here on."""
        self._saved = time.perf_counter()
