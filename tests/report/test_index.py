"""The index over many runs: numbers, links, what differs, and what it refuses to overwrite."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from clat import cli
from clat.core.errors import ClatError
from clat.report.index import write_index
from clat.report.recipe_differences import recipe_differences
from helpers import run_folders as fake
from helpers.html_page import Page


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with names that HTML and addresses have to escape, one that was interrupted, and a page each."""
    root = tmp_path_factory.mktemp("runs")
    runs = [
        fake.write_run(root / "a b#1", name="pgd-at <i> & more"),
        fake.write_run(root / "two", name="other", lift=0.02, robust=(0.30, 0.41)),
        fake.write_interrupted(root / "half"),
    ]
    write_index(runs)
    return runs


@pytest.fixture
def source(folders: list[Path]) -> str:
    return (folders[0].parent / "index.html").read_text(encoding="utf-8")


def test_it_is_well_formed_and_fetches_nothing(folders, source):
    page = Page(source)
    pages = {"a%20b%231/report.html", "two/report.html", "half/report.html"}
    assert {link for link in page.links if not link.startswith("#")} == pages
    assert all((folder / "report.html").is_file() for folder in folders)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"https?://|@import|url\((?!#)", re.sub(r'xmlns(:\w+)?="[^"]*"', "", source))
    assert "<i>" not in source


def test_its_script_is_the_one_that_may_run(source):
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in source


def test_numbers_and_links(source):
    words = Page(source).text
    setting = "pgd-20 at linf eps 8/255, cifar10/test, n = 1,000"
    for expected in ("3 runs", "35.0 %", "41.0 %", "pgd-at + clat", setting):
        assert expected in words, expected
    assert "Runs without a test result: 1." in words
    points = re.findall(
        r'<g id="scatter-run-(\d)">.*?<a xlink:href="(.*?)"[^>]*><title>(.*?)</title>', source, re.DOTALL
    )
    assert [(number, address) for number, address, _ in points] == [
        ("1", "a%20b%231/report.html"),
        ("2", "two/report.html"),
    ]
    assert points[1][2].startswith("2 other: clean 58.3%")
    assert 'data-sort="0.41"' in source


def test_runs_measured_in_different_ways_are_told_apart(tmp_path):
    first, second = fake.write_run(tmp_path / "a"), fake.write_run(tmp_path / "b", n=500)
    path, _ = write_index([first, second])
    assert "Points of different colours were measured in different ways" in Page(path.read_text()).text
    assert "n = 500" in Page(path.read_text()).text


def test_runs_of_other_attacks_of_one_name_or_of_other_images_are_told_apart(tmp_path):
    """Their protocols' and images' hashes say so; the words are the same."""
    runs = [fake.write_run(tmp_path / name) for name in "abcd"]
    for run, digest, images in zip(runs, ("aaaaaaaa1", "aaaaaaaa1", "bbbbbbbb2", "aaaaaaaa1"), "xxxy", strict=True):
        file = run / "evaluations" / "last.json"
        data = json.loads(file.read_text())
        data["protocol"]["hash"] = digest
        file.write_text(json.dumps({**data, "images": images * 8}))
    path, _ = write_index(runs)
    words = Page(path.read_text()).text
    assert "Points of different colours were measured in different ways" in words
    for expected, times in (("hash aaaaaa, image hash xxxxxx", 2), ("bbbbbb, image hash xxxxxx", 1), ("yyyyyy", 1)):
        assert words.count(expected) >= times, expected


def test_what_differs():
    stage = {"name": "clat", "epochs": 5, "objective": {"name": "clat", "steps": 10}, "selection": {"k": 3}}
    pgd = {"name": "pgd-at", "epochs": 5, "objective": {"name": "pgd-at", "steps": 10}}
    trades = {**pgd, "objective": {"name": "trades", "steps": 7, "beta": 6.0}}
    recipes = [
        {"name": "a", "seed": 0, "stages": [pgd, stage]},
        {"name": "b", "seed": 0, "stages": [pgd, {**stage, "selection": {"k": 1}}]},
        {"name": "c", "seed": 1, "stages": [trades]},
        {},
    ]
    assert {one.setting: one.values for one in recipe_differences(recipes)} == {
        "stages": {"pgd-at, then clat": [0, 1], "pgd-at": [2]},
        "seed": {"0": [0, 1], "1": [2]},
        "stages.pgd-at.objective.name": {"pgd-at": [0, 1], "trades": [2]},
        "stages.pgd-at.objective.steps": {"10": [0, 1], "7": [2]},
        "stages.clat.selection.k": {"3": [0], "1": [1]},
    }
    assert recipe_differences([recipes[0], {**recipes[0], "name": "x"}]) == []


def test_only_an_index_is_replaced(folders, tmp_path):
    own = tmp_path / "index.html"
    own.write_text("<p>mine</p>")
    with pytest.raises(ClatError, match="is not overwritten: name another file with --out"):
        write_index(folders, own)
    assert own.read_text() == "<p>mine</p>"
    again, _ = write_index(folders, tmp_path / "again.html")
    first = again.read_text()
    assert write_index(folders, again)[0].read_text() == first


def test_the_command(folders, tmp_path, capsys):
    runs = [str(one) for one in (*folders, tmp_path)]
    assert cli.main(["report", *runs, "--out", str(tmp_path / "all.html")]) == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'all.html'}" in said
    assert f"note: left out: '{tmp_path.resolve()}' is no run" in said
    for words, line in (
        ([runs[0], runs[3]], "an index takes two runs or more: "),
        ([runs[0], runs[0]], "the same folder was given twice"),
        ([*runs[:2], "--against", runs[2]], "--against goes with one run"),
    ):
        assert cli.main(["report", *words]) == 2
        assert line in capsys.readouterr().err


def test_current_pages_stay_and_older_ones_are_drawn_anew(tmp_path):
    runs = [fake.write_run(tmp_path / name, name=name) for name in "ab"]
    write_index(runs)
    shutil.copy(runs[0] / "report.html", runs[1] / "report.html")  # newer than what it should be drawn from
    before = (runs[0] / "report.html").stat().st_mtime_ns
    write_index(runs)
    assert (runs[0] / "report.html").stat().st_mtime_ns == before
    (runs[1] / "summary.json").write_text((runs[1] / "summary.json").read_text())
    write_index(runs)
    assert (runs[1] / "report.html").read_text() != (runs[0] / "report.html").read_text()
