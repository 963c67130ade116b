"""Rows beside one another give the table that rows one after the other give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clat.runtime.jobs.processes import LocalProcesses
from clat.studies.beside import begun_alike, epochs_done, row_job
from clat.studies.row import Row
from clat.studies.row_words import row_words
from clat.studies.run import run_study
from clat.studies.tables.baselines import pair
from helpers.studies import QUIET, STUDY, TINY, apart_from_time, tiny_rows


@pytest.mark.slow
def test_two_at_a_time_give_the_serial_table(tmp_path, monkeypatch):
    """The second row takes the first one's stage over as soon as it is there."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = tiny_rows(TINY)[:2]
    serial = run_study(STUDY, TINY, rows, tmp_path / "serial", QUIET)
    beside = run_study(STUDY, TINY, rows, tmp_path / "beside", QUIET, LocalProcesses(2))
    assert [row["status"] for row in beside["rows"]] == ["finished", "finished"]
    assert apart_from_time(beside) == apart_from_time(serial)
    assert json.loads((tmp_path / "beside" / "table.json").read_text()) == json.loads(json.dumps(beside))
    assert "stage 1/2" not in (tmp_path / "beside" / "logs" / "pgd-at+clat.log").read_text(), "taken over"


@pytest.mark.slow
def test_a_row_that_cannot_run_is_tried_once_more_and_stands_in_the_table(tmp_path):
    table = run_study(STUDY, TINY, tiny_rows(TINY)[2:], tmp_path / "out", QUIET, LocalProcesses(2))
    assert [row["status"] for row in table["rows"]] == ["failed"]
    assert "nowhere.pt" in table["rows"][0]["failure"]
    assert (tmp_path / "out" / "logs" / "broken.log").read_text().count("nowhere.pt") == 2


STOPPED = """
import sys
from clat import cli
from clat.studies import STUDIES
from helpers.studies import STUDY
STUDIES["tiny-study"] = STUDY
sys.argv = ["clat", *sys.argv[1:]]
sys.exit(cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_that_is_stopped_goes_on_to_the_same_table(number, code, tmp_path):
    words = [sys.executable, "-c", STOPPED, "study", "tiny-study", "--out", str(tmp_path / "out"), "--jobs", "2"]
    words += ["--rows", "pgd-at", "pgd-at+clat"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "out" / "runs" / "pgd-at" / "metrics.jsonl", time.monotonic() + 300
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    about = json.loads((tmp_path / "out" / "runs" / "pgd-at" / "run.json").read_text())
    assert about["status"] in ("interrupted", "finished")
    rows = tiny_rows(TINY)[:2]
    table = run_study(STUDY, TINY, rows, tmp_path / "out", QUIET, LocalProcesses(2))
    assert [row["status"] for row in table["rows"]] == ["finished", "finished"]


def test_a_row_is_a_job_that_waits_for_what_it_builds_on(tmp_path):
    first, second, *_ = tiny_rows(TINY)
    third = Row("third", first.recipe, needs=("pgd-at",))
    rows = {row.name: row for row in (first, second, third)}
    jobs = [row_job(row, rows, tmp_path / f"{row.name}.toml", tmp_path) for row in rows.values()]
    assert [one.after for one in jobs] == [(), ("pgd-at",), ("pgd-at",)]
    assert not any(one.early() for one in jobs)
    assert jobs[1].words() == row_words(second, tmp_path / "pgd-at+clat.toml", tmp_path)
    assert jobs[0].is_free()
    assert jobs[0].progress() == ""


def test_rows_of_other_beginnings_take_nothing_over(tmp_path):
    other = pair(TINY, "trades", {"name": "trades", "steps": 1})[0]
    assert not begun_alike(tiny_rows(TINY)[1], other, tmp_path)


def test_progress_is_that_of_the_last_epoch_even_in_the_midst_of_a_line(tmp_path):
    records = [{"event": "epoch", "epoch": 1, "heldout_robust": 0.25}, {"event": "epoch", "epoch": 2}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "metrics.jsonl").write_text(lines[0] + "\n")
    assert epochs_done(tmp_path, 9) == "epoch 1/9, robust 25.0%"
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    assert epochs_done(tmp_path, 9) == "epoch 2/9"
