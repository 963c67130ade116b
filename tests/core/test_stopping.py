"""What a signal raises where Python drops it is no traceback on the screen."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from clat.core.stopping import Terminated, ends_in_time


class Ends:
    """Raises as it goes, as a signal's handler does that happens to run there."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_a_signal_in_a_destructor_is_not_shown_and_an_error_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type] = []

    def show(unraisable: sys.UnraisableHookArgs) -> None:
        shown.append(unraisable.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", show)
    with ends_in_time():
        Ends(KeyboardInterrupt())
        Ends(ValueError())
    assert shown == [ValueError]
    assert sys.unraisablehook is show


def test_after_a_termination_signal_nothing_that_is_dropped_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader raises of its workers, which had the signal too, as it is deleted."""
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)

    def terminated() -> None:
        with ends_in_time():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            finally:
                Ends(RuntimeError("DataLoader worker is killed by signal"))

    with pytest.raises(Terminated):
        terminated()
    assert shown == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
