"""A hardening says how far it is in each of its parts, also where no bar can be drawn."""

from __future__ import annotations

import pytest

import clat
from clat.core import progress
from helpers import runs as kit


@pytest.fixture
def _every_line(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)


def said(capsys):
    return capsys.readouterr().out


@pytest.mark.usefixtures("_every_line")
def test_each_part_of_a_hardening_says_how_far_it_is(tmp_path, capsys):
    clat.harden(
        kit.nearest_colour(), *kit.data(train=192, test=32), tmp_path / "hard", eps="24/255", epochs=1,
        objective="n-fgsm", batch_size=16, heldout=96, device="cpu", max_clean_drop=60, augment="none",
    )  # fmt: skip
    lines = said(capsys)
    looked, promised = lines.split("measuring what a step costs here")
    assert "attacking held-out images  1/1" in looked
    assert "timing steps  2/4" in promised
    assert "attacking held-out images  1/1" in promised, "the points of the promise"
    assert "n-fgsm, as asked for: 1 epoch\n" in lines
    sure = "holds that with a confidence of 90% on 96 held-out images"
    said_of_promise = next(line for line in lines.splitlines() if "promise of 60 points of clean accuracy" in line)
    assert sure in said_of_promise
    assert "the line between start" in said_of_promise
    assert "96 training and 96 held-out images; linf eps 24/255; " in lines, "what is trained"
    assert "measuring before and after on 32 test images" in lines
    assert "robust at most" in lines.split("measuring before and after")[1]
    assert "looking for signs" in lines
    assert "under `cr (not AutoAttack)`" in (tmp_path / "hard" / "README.md").read_text(), "the default"


@pytest.mark.usefixtures("_every_line")
def test_the_test_at_the_end_of_a_training_says_how_far_it_is(tmp_path, capsys):
    clat.train(kit.recipe(stages=(kit.pgd_at(1),)), tmp_path / "run", model=kit.tiny(), data=kit.data())
    assert "robust at most" in said(capsys)
