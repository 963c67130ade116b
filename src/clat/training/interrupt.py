"""Stopping on Ctrl-C or a termination signal: at the next safe point where a step must not be cut in two, else at
once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run was asked to stop and has saved its state; no error, like KeyboardInterrupt. `exit_code`: 128 plus
    the signal's number; `forced`: it was asked twice, and left where it was."""

    def __init__(self, number: int, *, forced: bool = False) -> None:
        super().__init__(f"stopped by signal {number}")
        self.exit_code, self.forced = 128 + number, forced


class StopFlag:
    """`number`: the first signal received, 0 while there is none. A second one stops at once."""

    number = 0
    raising = False

    def heed(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.number:
            raise Interrupted(self.number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Interrupted wherever it comes, also one from before: for what may be left at any
        point."""
        self.raising = True
        try:
            self.heed()
            yield
        except RuntimeError:  # of a collective, say, which the others left a moment before the signal got through
            self.heed()
            raise
        finally:
            self.raising = False


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Inside, SIGINT and SIGTERM only raise a flag. Signals belong to the main thread: elsewhere nothing is
    caught."""
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
