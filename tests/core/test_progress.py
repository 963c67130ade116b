"""How far something is: bars where they can be drawn, else lines half a minute apart; all of it to a logger."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest

from clat.core import progress
from clat.core.console import plain_console
from clat.core.logger import logger
from clat.core.notices import Notice, notice
from clat.core.progress import SparseLines, draws_bars, to_go
from clat.evaluation.live import evaluation_progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (7.04, "  about 7.0 s to go"),
        (75, "  about 1 min 15 s to go"),
        (754, "  about 13 min to go"),
        (3700, "  about 1 h 01 min to go"),
    ],
)
def test_time_to_go(seconds, text):
    assert to_go(seconds) == text


def test_lines_are_half_a_minute_apart(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sparse = SparseLines(said.append)
    for moment in (1, 29, 30, 31, 59, 61, 100):
        now[0] = moment
        sparse(lambda: str(now[0]))
    assert said == ["30", "61", "100"]
    sparse.rest()
    now[0] = 129
    sparse(lambda: "never")
    assert said[-1] == "100"


def test_bars_are_drawn_where_they_can_be(monkeypatch):
    file = io.StringIO()
    assert draws_bars(plain_console(file=file, force_terminal=True))
    assert not draws_bars(plain_console(file=file, force_terminal=True, quiet=True))
    assert not draws_bars(plain_console(file=file))
    notebook = plain_console(file=file, force_jupyter=True)
    for found in (None, object()):
        monkeypatch.setattr(progress, "find_spec", lambda name, found=found: found)
        assert draws_bars(notebook) == (found is not None), "ipywidgets draw them there"


def test_an_evaluation_says_where_it_is_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    file = io.StringIO()
    with caplog.at_level(logging.INFO, "clat"), evaluation_progress(plain_console(file=file)) as report:
        report("apgd-ce", 0, 100, 0.5)
        report("apgd-ce", 50, 100, 0.25)
    assert file.getvalue().startswith("apgd-ce  50/100 images  robust at most 25.0%  about ")
    assert file.getvalue().count("\n") == 1
    assert caplog.messages == [file.getvalue().strip()]


def test_a_notice_is_a_warning_and_a_record(caplog):
    with caplog.at_level(logging.INFO, "clat"), pytest.warns(Notice, match="12 % of it"):
        notice("12 % of it was not used")
    assert caplog.messages == ["12 % of it was not used"]


def test_nothing_is_written_twice_where_nobody_listens(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger.warning("once")
    assert capsys.readouterr() == ("", "")


def test_the_time_to_go_of_resumed_work_counts_what_was_done_since(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    now, file = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with progress.progress_shown(plain_console(file=file)) as show:
        for moment, done in ((1.0, 400), (11.0, 402), (12.0, 0), (13.0, 100)):
            now[0] = moment
            show("a", done, 500)
    assert file.getvalue().splitlines() == [
        "a  400/500",
        "a  402/500  about 8 min 10 s to go",
        "a  100/500  about 4.0 s to go",
    ]
