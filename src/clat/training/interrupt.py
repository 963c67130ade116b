"""Stopping on Ctrl-C or a termination signal: at the next safe point where a step must not be cut in two, else at
once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from clat.core.stopping import answered

if TYPE_CHECKING:
    from clat.runtime.engine import Engine


class Interrupted(BaseException):
    """Raised where a run that was asked to stop has saved its state; no error, like KeyboardInterrupt.

    Attributes:
        exit_code: 128 plus the signal's number.
        forced: it was asked twice, and left where it was.
    """

    def __init__(self, number: int, *, forced: bool = False) -> None:
        super().__init__(f"stopped by signal {number}")
        self.exit_code, self.forced = 128 + number, forced


class StopFlag:
    """A flag that the first signal raises. A second signal stops at once.

    Attributes:
        number: the first signal received, 0 while there is none.
        raising: a signal raises Interrupted wherever it comes, see `at_once`.
    """

    number = 0
    raising = False

    def heed(self) -> None:
        """Raise an error if there was a signal.

        Raises:
            Interrupted: there was one.
        """
        if self.number:
            raise Interrupted(self.number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal stop the body wherever it comes, also one from before: for what may be left at any point.

        Yields:
            Nothing; the body runs.

        Raises:
            Interrupted: there was a signal.
        """
        self.raising = True
        try:
            self.heed()
            yield
        except RuntimeError:  # of a collective, say, which the others left a moment before the signal got through
            self.heed()
            raise
        finally:
            self.raising = False


def stop_if_asked(
    stop: StopFlag, engine: Engine, before: Callable[[], None] = lambda: None, *, agreed: bool | None = None
) -> None:
    """Stop if any process was asked to. All processes must call it.

    Args:
        stop: this process's flag.
        engine: the processes that stop together.
        before: what is to be done first, such as saving the state.
        agreed: whether a process was asked to, where all know it already; None: they ask one another.

    Raises:
        Interrupted: a process was asked to.
    """
    if engine.any_of(bool(stop.number)) if agreed is None else agreed:
        answered()
        before()
        engine.wait()  # for the first, which saves: its launcher kills it once another has failed
        raise Interrupted(stop.number or signal.SIGINT)


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Let SIGINT and SIGTERM only raise a flag while the body runs.

    Signals belong to the main thread: elsewhere nothing is caught. Afterwards their handlers are as before.

    Yields:
        The flag.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def again(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, forced=True)

    def note(number: int, frame: FrameType | None) -> None:
        flag.number = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        signal.signal(signal.SIGTERM, again)
        if flag.raising:
            flag.heed()

    try:
        for number in before:
            signal.signal(number, note)
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
