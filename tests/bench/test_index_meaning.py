"""What the criticality index foretells: which runs its benchmark reads, and that it asks for all of them first."""

from __future__ import annotations

import json

import pytest
from benchmarks import index_meaning

ROWS = ("whole", *(f"layer-{number}" for number in range(1, 18)))


@pytest.fixture
def alone(tmp_path):
    """The folder of a study of one seed, whose events end with what the run took over from another one."""
    for place, row in enumerate(ROWS):
        run = tmp_path / "runs" / f"{row}@0"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"status": "finished"}))
        last = {"heldout_clean": 0.4, "heldout_robust": place / 100}
        (run / "summary.json").write_text(json.dumps({"last": last}))
        taken_over = {"event": "epoch", "heldout_clean": 0.9, "heldout_robust": 0.9}
        (run / "metrics.jsonl").write_text(json.dumps(taken_over) + "\n")
    return tmp_path


def test_accuracies_are_those_of_a_runs_summary(alone):
    assert index_meaning.checks(alone, "layer-3", ["0"]) == {"clean": [0.4], "robust": [0.03]}


def test_rows_that_have_not_finished_are_named_before_anything_is_measured(alone, monkeypatch, capsys):
    assert index_meaning.alone_refusal(alone, ["pgd-at@0", "pgd-at@1"]) == "", "of seed 1 there is nothing"
    (alone / "runs" / "layer-4@0" / "run.json").write_text(json.dumps({"status": "interrupted"}))
    (alone / "runs" / "layer-9@0" / "run.json").unlink()
    out = alone / "out.json"
    words = ["index_meaning", "--runs", "elsewhere/pgd-at@0", "--alone", str(alone), "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        index_meaning.main()
    assert stopped.value.code == 2
    assert "not finished: layer-4@0, layer-9@0" in capsys.readouterr().err
    assert not out.exists()


def test_a_study_of_other_seeds_is_refused(alone):
    assert "no row whole@SEED" in index_meaning.alone_refusal(alone, ["pgd-at@5"])
