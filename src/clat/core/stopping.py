"""End a command that is asked to stop within two seconds, whatever code it is in.

Python acts on Ctrl-C between two of its own instructions. That may be long in coming: a backward pass of minutes,
or one operation of a foreign network's, is a single instruction; a training step is brought to its end first; and a
network may catch the exception and go on. So a thread that the signal reaches at once sends it a second time, as an
impatient user would, and ends the process if that does not help either. Only code that never lets go of the
interpreter's lock, as some extension modules do, keeps it from that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

AGAIN = 1.3
"""Seconds after which the signal is sent again: what a training step has to come to its end, and save."""
AT_LAST = 1.8
"""Seconds after which the process is ended."""

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """Raised by a termination signal that nobody else handles, so that what Ctrl-C cleans up is cleaned up, too."""


LastWords = Callable[[], str]
"""Called before the process is ended from outside of the code at work; what it returns is said."""

_last_words: list[LastWords] = []
_answered = threading.Event()
_terminated = threading.Event()
"""Set once a termination signal has come, which children may have had too, and die of."""


def answered() -> None:
    """Say that the process has heard of a signal and is on its way out, so that it is left to that."""
    _answered.set()


@contextmanager
def last_words(say: LastWords) -> Iterator[None]:
    """Let `say` be called, from another thread, if the process has to be ended while the code inside runs.

    Args:
        say: returns one line, which is printed; "": there is nothing to say.
    """
    _last_words.append(say)
    try:
        yield
    finally:
        _last_words.remove(say)


@contextmanager
def ends_in_time() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process within two seconds while the code inside runs.

    It is for a process's outermost code, in its main thread; elsewhere it does nothing.

    Raises:
        Terminated: on SIGTERM, unless the process has a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_kill"):
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    _answered.clear()
    _terminated.clear()
    watch = threading.Thread(target=_watch, args=(reading,), name="clat-stopping", daemon=True)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    shown, sys.unraisablehook = sys.unraisablehook, _quiet_about_signals(sys.unraisablehook)
    os.register_at_fork(after_in_child=_deaf)  # a child's signals are its own
    lets_go = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if lets_go:
        signal.signal(signal.SIGTERM, _terminate)
    watch.start()
    try:
        yield
    finally:
        answered()
        sys.unraisablehook = shown
        if lets_go:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        with suppress(OSError):
            writing.send(b"\0")
        watch.join()
        reading.close()
        writing.close()


def _quiet_about_signals(show: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return the hook `show` without what a signal raises in a destructor or in a callback of the collector, where
    Python drops it and prints a traceback: the signal is sent again. Nor what is raised there once a termination
    signal has come, as by torch's loader about its workers, which had it too."""

    def hook(unraisable: Any) -> None:
        foreign = unraisable.exc_value is None or isinstance(unraisable.exc_value, Exception)
        if foreign and not _terminated.is_set():
            show(unraisable)

    return hook


def _deaf() -> None:
    """Send the signals of a forked child to nobody here."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    _terminated.set()
    raise Terminated


def _watch(reading: socket.socket) -> None:
    """Wait for the number of a signal, which arrives as soon as the signal does, or for 0, the end."""
    while True:
        for number in reading.recv(64):
            if number == 0:
                return
            if number in STOPPING and not _answered.is_set():
                _insist(number)


def _insist(number: int) -> None:
    """Send the signal again if it is not answered in time, then end the process."""
    if _answered.wait(AGAIN):
        return
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)
    if not _answered.wait(AT_LAST - AGAIN):
        _end(number)


def _end(number: int) -> None:
    """End the process, which does not answer."""
    words = ["stopped: the code at work did not let go"]
    for say in list(_last_words):
        with suppress(Exception):
            words += filter(None, [say()])
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
    with suppress(OSError):
        os.write(2, f"{cursor}\nclat: {'; '.join(words)}\n".encode())
    os._exit(128 + number)
