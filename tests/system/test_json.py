"""`--json`: the result alone on standard output, all else on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_recipes(clat):
    listed = json.loads(clat("recipes", "--json").out)
    assert any("demo" in group for group in listed.values())
    assert json.loads(clat("train", "--list", "--json").out) == listed
    for words in (["show", "demo", "--json"], ["--json", "show", "demo"]):
        assert json.loads(clat("recipes", *words).out)["eps"] == "0.1"


def test_a_run(clat, tmp_path: Path):
    done = clat("train", "tiny.toml", "--out", tmp_path / "run", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["what"] == "run"
    assert found["out"] == str(tmp_path / "run")
    assert set(found["evaluations"]) == {"stage-1", "best", "last"}
    assert found["summary"] == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "stage 1/2: pgd-at" in done.err
    assert json.loads(clat("train", "--resume", tmp_path / "run", "--json", "--quiet").out)["what"] == "run"


def test_a_measurement(clat):
    done = clat("evaluate", "--model", "own_network:Net", "--eps", "0.1", "--num-samples", 4, "--json")
    assert json.loads(done.out)["what"] == "evaluation"
    assert "robust accuracy" in done.err


def test_json_goes_to_one_place(refused):
    line = refused("evaluate", "--model", "own_network:Net", "--eps", "0.1", "--json", "--out", "a.json")
    assert "not allowed with" in line


@pytest.mark.parametrize(
    "words", [["recipes", "show", "dmeo", "--json"], ["train", "dmeo", "--out", "x", "--json"]]
)
def test_bad_input_prints_no_json(clat, words):
    done = clat(*words, "--json")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1


def test_results_are_alone_in_a_pipe(workplace):
    words = [sys.executable, "-m", "clat", "doctor", "--no-speed", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=workplace, timeout=120, check=True)
    assert json.loads(done.stdout)["what"] == "doctor"
