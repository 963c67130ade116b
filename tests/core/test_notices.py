"""Notices: who hears them, and how often."""

from __future__ import annotations

import pytest

from clat.core.notices import Notice, listening, notice, recorded


def test_without_a_listener_it_is_a_warning() -> None:
    with pytest.warns(Notice, match="took one of two"):
        notice("took one of two")


def test_the_innermost_listener_alone_hears_it() -> None:
    outer, inner = [], []
    with listening(outer.append):
        with listening(inner.append):
            notice("a")
        notice("b")
    assert (outer, inner) == (["b"], ["a"])


def test_what_is_recorded_goes_on_to_the_listener_before_once() -> None:
    heard: list[str] = []
    with listening(heard.append), recorded() as texts:
        for text in "aba":
            notice(text)
    assert texts == heard == ["a", "b"]


def test_what_is_recorded_without_a_listener_is_a_warning_still() -> None:
    with pytest.warns(Notice, match="c"), recorded() as texts:
        notice("c")
    assert texts == ["c"]
