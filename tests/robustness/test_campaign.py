"""The campaign as `python -m tests.robustness` runs it, in a process that nothing was computed in before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.robustness.page import KINDS, WAYS, page

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "results" / "robustness.json"


def run(tmp_path: Path, *words: str) -> dict[str, Any]:
    """Run it and return its counts; what it found is the message of a failure."""
    out = tmp_path / "robustness.json"
    command = [
        sys.executable,
        "-m",
        "tests.robustness",
        "--out",
        str(out),
        "--place",
        str(tmp_path / "place"),
        *words,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_fifty_kills_and_each_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    kills = run(tmp_path, "--kills", "50", "--inputs", "0")["kills"]
    assert (kills["kills"], kills["identical"], kills["faults"]) == (50, 50, [])


@pytest.mark.slow
def test_a_thousand_hostile_inputs_and_each_ends_in_a_result_or_one_line(tmp_path: Path) -> None:
    inputs = run(tmp_path, "--kills", "0", "--inputs", "1000")["inputs"]
    assert (inputs["inputs"], inputs["fault"]) == (1000, 0)


def test_the_page_of_the_results_is_made_from_the_numbers_beside_it() -> None:
    data = json.loads(REPORT.read_text())
    assert data["kills"]["kills"] >= 50
    assert data["inputs"]["inputs"] >= 1000
    written = REPORT.with_suffix(".md").read_text()
    assert written == page(data)
    assert set(data["inputs"]["by_kind"]) == set(KINDS)
    assert {name.partition(", ")[2] for name in data["kills"]["by_command_and_way"]} <= set(WAYS)
