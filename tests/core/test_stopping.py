"""What a signal raises where Python drops it is no traceback on the screen."""

from __future__ import annotations

import sys

import pytest

from clat.core.stopping import ends_in_time


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
