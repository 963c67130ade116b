"""A run folder is read tolerantly, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clat.core.errors import ClatError
from clat.report.page import render
from clat.report.reading import read_run
from clat.report.records import moment, series
from helpers import run_folders as fake


def test_a_complete_run_leaves_nothing_to_complain_about(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.notices == []
    assert [(s.number, s.name, s.first, s.last) for s in run.stages] == [
        (1, "pgd-at", 1, 15),
        (2, "clat", 16, 30),
    ]
    assert [one.label for one in run.evaluations] == ["stage-1", "best", "last"]
    assert list(run.criticality) == list(run.selections) == [16, 21, 26]
    assert len(run.epochs) == 30


def test_what_is_missing_or_torn_becomes_a_notice(tmp_path: Path) -> None:
    run = read_run(fake.write_interrupted(tmp_path / "run"))
    notices = "\n".join(run.notices)
    for name in (
        "recipe.toml is missing",
        "summary.json is missing",
        "skipped line 5",
        "evaluations/ holds no",
    ):
        assert name in notices
    assert run.name == "run"
    assert moment(run, "last")["epoch"] == 3


def test_damaged_files_are_named_and_left_out(run_dir: Path) -> None:
    (run_dir / "summary.json").write_text("{", encoding="utf-8")
    (run_dir / "run.json").write_text("[1]", encoding="utf-8")
    (run_dir / "recipe.toml").write_text("name = ", encoding="utf-8")
    (run_dir / "evaluations" / "last.json").write_bytes(b"\xff\xfe")
    run = read_run(run_dir)
    notices = "\n".join(run.notices)
    for name in (
        "summary.json could not",
        "run.json does not hold",
        "recipe.toml could not",
        "evaluations/last.json",
    ):
        assert name in notices
    assert run.evaluation("last") is None
    assert run.evaluation("best") is not None


def test_the_later_record_of_a_repeated_epoch_counts(run_dir: Path) -> None:
    redone = {"event": "epoch", "stage": 1, "stage_name": "clat", "epoch": 30, "heldout_robust": 0.123}
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(redone) + "\n")
    run = read_run(run_dir)
    assert len(run.epochs) == 30
    assert series(run.epochs, "heldout_robust")[1][-1] == 0.123


def test_values_that_are_no_numbers_are_left_out_of_a_series() -> None:
    epochs = [{"epoch": 1, "x": 1}, {"epoch": 2, "x": None}, {"epoch": 3, "x": float("nan")}, {"epoch": 4}]
    assert series(epochs, "x") == ([1], [1.0])


@pytest.mark.parametrize("make", [False, True], ids=["absent", "empty"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "elsewhere"
    if make:
        folder.mkdir()
    with pytest.raises(ClatError, match=r"elsewhere.*give the folder that `clat train` wrote"):
        read_run(folder)


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("criticality/epoch-0016.json", ("rows", 1), 3),
        ("criticality/epoch-0016.json", ("rows", 1, "name"), ["conv1"]),
        ("criticality/epoch-0021.json", ("rows", 0), "x"),
        ("summary.json", ("stages",), True),
        ("summary.json", ("stages", 0), 3),
        ("summary.json", ("warnings",), 7),
        ("summary.json", ("best",), []),
        ("run.json", ("notes",), {"a": 1}),
        ("evaluations/last.json", ("per_attack",), 3),
        ("evaluations/last.json", ("per_attack", 0), 0.5),
        ("evaluations/last.json", ("per_attack", 0, "robust_accuracy"), "x"),
        ("evaluations/last.json", ("protocol",), [1]),
    ],
)
def test_values_of_another_kind_are_left_out(run_dir: Path, file: str, keys: tuple[Any, ...], value: Any) -> None:
    """Somebody changed a file, or another version wrote it: the page shows the rest."""
    record = place = json.loads((run_dir / file).read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (run_dir / file).write_text(json.dumps(record))
    assert "</html>" in render(read_run(run_dir))


@pytest.mark.parametrize(("event", "key"), [("selection", "layers"), ("epoch", "parts"), ("epoch", "lr")])
def test_events_of_another_kind_are_left_out(run_dir: Path, event: str, key: str) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == event:
            line[key] = 5
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "</html>" in render(read_run(run_dir))
