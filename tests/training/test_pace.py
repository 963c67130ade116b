"""How long a run still takes: a closed form, the line within the first epoch, and lines without a terminal."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import clat
from clat.core import progress
from clat.objectives import FastAT, FreeAT, PgdAT, Standard
from clat.recipe.schema import Recipe, StageConfig
from clat.training import log, pace
from clat.training.pace import RunPace, passes
from helpers import runs as kit


def test_objectives_are_weighed_by_their_passes():
    assert passes(Standard()) == 1
    assert passes(PgdAT(steps=10)) == 11
    assert passes(FastAT()) == 2
    assert passes(FreeAT(replays=4)) == 8


def test_the_pace_of_one_stage_tells_of_the_next():
    stages = (
        StageConfig(name="a", epochs=2, objective=PgdAT(steps=9)),
        StageConfig(name="b", epochs=3, objective=Standard()),
    )
    now = [0.0]
    left = RunPace(Recipe(stages=stages), 5, clock=lambda: now[0])
    first = left.within(0)
    assert first(1) is None, "the clock starts after the first step"
    now[0] = 1.0
    assert first(2) is None, "too short a time to go by"
    now[0] = 40.0
    assert first(5) == pytest.approx(65), "40 seconds for 40 passes, of which 50 + 15 are left"
    assert left.within(4)(5) == 0


def test_a_run_says_how_long_it_will_take(tmp_path: Path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(pace, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(log, "WORTH_SAYING", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "clat"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert capsys.readouterr().out == "", "quiet for the screen, not for the logger"
    said = caplog.messages
    estimate = next(place for place, line in enumerate(said) if line.endswith(" to go in training"))
    epoch = next(place for place, line in enumerate(said) if line.startswith("epoch 1/") and "lr" in line)
    assert estimate < epoch, "before the first epoch is over"
    assert sum("to go in training" in line for line in said) == 1
    assert any("step 2/" in line and "images/s  about" in line for line in said)
    assert all(record.name == "clat" for record in caplog.records)
