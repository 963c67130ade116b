"""A table's networks trained beside one another: all of them ahead, CLAT's ratio before those that it is for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from clat.runtime.jobs import schedule
from clat.studies.paper import scales, store
from clat.studies.paper.beside import gather
from clat.studies.paper.catalogue import find_table
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store
from clat.studies.paper.table import Asked, run_table
from helpers.paper import TINY
from helpers.places import InThisProcess

RATIOS = replace(TINY, ratios=(0.03, 0.3))
ASKED = Asked(
    networks=("resnet18",),
    datasets=("cifar10",),
    rows=("pgd-at", "pgd-at+clat, critical"),
    seeds=1,
    folders={"cifar10": "digits"},
)
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    monkeypatch.setitem(scales.SCALES, "tiny", RATIOS)


def never(*args):
    raise AssertionError("all is trained ahead")


def test_a_table_finds_all_its_networks_trained_and_says_what_it_says_serially(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "run_row", never)
    place = InThisProcess()
    held = Store(tmp_path, RATIOS, ASKED.folders)
    found = run_table(find_table("T7"), ASKED, held, tmp_path, QUIET, place)
    assert found["failed"] == 0
    assert held.gathered is None
    begun = [words[words.index("--out") + 1].rpartition("/")[2] for words in place.started]
    ratios = [name for name in begun if "+clat" in name]
    assert begun[: len(ratios)] == ratios, "the ratios' networks come before the table's"
    assert len({name.rpartition("-")[0] for name in ratios}) == 2
    taken = ["--reuse" in words for words in place.started]
    assert taken[0] is False
    assert all(taken[1:]), "what X trained before is taken over"

    run_table(find_table("T7"), ASKED, held, tmp_path, QUIET, place)
    assert len(place.started) == len(begun), "nothing is trained again"
    assert json.loads((tmp_path / "T7" / "table.json").read_text())["entries"] == found["entries"]


def test_what_fails_twice_is_named_and_not_tried_for_ever(tmp_path, monkeypatch):
    place = InThisProcess(die=range(100))
    held = Store(tmp_path, replace(RATIOS, ratios=(0.1,)), ASKED.folders)
    found = run_table(find_table("T7"), ASKED, held, tmp_path, QUIET, place)
    assert len(place.started) == 4
    assert found["failed"] == len(found["entries"])
    assert all("died of SIGKILL" in entry["failure"] for entry in found["entries"])


def test_gathering_trains_nothing_and_names_what_a_run_starts_from(tmp_path):
    held = Store(tmp_path, RATIOS, ASKED.folders)
    spec = RunSpec(base="bai2024", network="resnet18", dataset="cifar10")
    found = gather(held, lambda: held.train(held.run_of(spec), QUIET))
    assert [run.spec.base for run in found] == ["clean", "pgd-at", "bai2024"]
    assert gather(held, lambda: None) == []
