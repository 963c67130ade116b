"""The one sentence claims what the numbers carry and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clat.core.formatting import SPACE
from clat.report.outcome import outcome, overfitting
from clat.report.page import render
from clat.report.reading import read_run
from clat.report.records import Run
from helpers import run_folders as fake


def sentence(run: Run, *others: Run) -> str:
    return outcome(run, others).replace(SPACE, " ")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def test_before_and_after_with_overlapping_intervals(run_dir: Path) -> None:
    assert sentence(read_run(run_dir)) == (
        "With 15 epochs of clat, robust accuracy went from 34.1 % to 35.0 % (pgd-20 at linf eps 8/255: +0.9 points "
        "with n = 1,000, but the 95 % intervals overlap: not settled), and clean "
        "accuracy from 55.1 % to 56.3 %."
    )


def test_intervals_apart_are_said_to_be_apart(tmp_path: Path) -> None:
    run = read_run(fake.write_run(tmp_path / "run", robust=(0.45, 0.34), n=10000))
    assert "from 45.0 % to 34.0 %" in sentence(run)
    assert "−11.0 points with n = 10,000, and the 95 % intervals do not overlap" in sentence(run)


def with_verdicts(path: Path, robust: str, images: str = "aa", correct: str = "1" * 40) -> None:
    shares = {
        name: {"value": bits.count("1") / 40, "n": 40} for name, bits in (("clean", correct), ("robust", robust))
    }
    accuracies = {f"{name}_accuracy": share for name, share in shares.items()}
    edit(path, correct=correct, robust=robust, images=images, **accuracies)


def test_results_of_the_same_images_are_compared_image_by_image(run_dir: Path) -> None:
    """Their intervals overlap, and yet no image was lost and nine were won: p = 2 / 2**9."""
    before, after = (run_dir / "evaluations" / f"{name}.json" for name in ("stage-1", "last"))
    with_verdicts(before, "1" * 10 + "0" * 30)
    with_verdicts(after, "1" * 19 + "0" * 21, correct="1" * 39 + "0")
    said = sentence(read_run(run_dir))
    assert (
        "went from 25.0 % to 47.5 % (pgd-20 at linf eps 8/255: +22.5 points on the same 40 images, 95 % "
        "interval +7.4 to +35.5, McNemar p = 0.0039)"
    ) in said
    assert "and clean accuracy from 100.0 % to 97.5 % (−2.5 points on the same 40 images" in said
    assert "overlap" not in said
    assert "settled" not in said


def test_results_of_other_images_are_not_compared(run_dir: Path, tmp_path: Path) -> None:
    before, after = (run_dir / "evaluations" / f"{name}.json" for name in ("stage-1", "last"))
    with_verdicts(before, "1" * 10 + "0" * 30)
    with_verdicts(after, "1" * 19 + "0" * 21, images="bb")
    assert "before, but on other images: the two do not compare" in sentence(read_run(run_dir))
    other = fake.write_run(tmp_path / "other", name="other")
    with_verdicts(other / "evaluations" / "last.json", "1" * 40)
    assert "other was measured on other images, so it is not" in sentence(read_run(run_dir), read_run(other))
    with_verdicts(after, "1" * 19 + "0" * 21)
    said = sentence(read_run(run_dir), read_run(other))
    assert "other ends with 100.0 % robust and 100.0 % clean accuracy" in said
    assert "(robust accuracy here less there: −52.5 points on the same" in said


def test_against_another_run_at_the_same_budget(tmp_path: Path) -> None:
    ours = read_run(fake.write_run(tmp_path / "a"))
    theirs = read_run(fake.write_run(tmp_path / "b", name="pgd-at only", robust=(0.30, 0.31)))
    assert sentence(ours, theirs).startswith(
        "Under pgd-20 at linf eps 8/255 on the test split, pgd-at + clat ends with 35.0 % robust and 56.3 % clean "
        "accuracy; at the same budget of 30 epochs pgd-at only ends with 31.0 % robust and 56.3 % clean "
        "accuracy (robust accuracy here less there: +4.0 points"
    )


def test_unequal_budgets_are_called_unequal(tmp_path: Path) -> None:
    ours, theirs = (read_run(fake.write_run(tmp_path / name, name=name)) for name in "ab")
    theirs.epochs = theirs.epochs[:20]
    theirs.summary["cost"]["backwards"] *= 2
    assert "at a different budget (20 epochs, 30 here) and 2.00 times the backward passes b" in sentence(
        ours, theirs
    )


def test_different_protocols_are_not_compared(run_dir: Path, tmp_path: Path) -> None:
    other = fake.write_run(tmp_path / "other", name="other")
    edit(other / "evaluations" / "last.json", protocol={"name": "pgd-20", "hash": "ffff"})
    assert "other was measured differently" in sentence(read_run(run_dir), read_run(other))
    assert "measured differently: the two do not compare" in sentence(read_run(other))


def test_a_run_that_was_given_a_model_starts_from_stage_0(run_dir: Path) -> None:
    run = read_run(run_dir)
    run.recipe["stages"] = run.recipe["stages"][1:]
    run.stages = run.stages[1:]
    fake.write_json(run_dir / "evaluations" / "stage-0.json", fake.evaluation("stage-0", 0.5, 0.2))
    run.evaluations = read_run(run_dir).evaluations
    assert sentence(run).startswith("With 15 epochs of clat, robust accuracy went from 20.0 % to 35.0 %")


def test_all_stages_since_the_result_from_before_count(run_dir: Path) -> None:
    (run_dir / "evaluations" / "stage-1.json").unlink()
    fake.write_json(run_dir / "evaluations" / "stage-0.json", fake.evaluation("stage-0", 0.5, 0.2))
    assert sentence(read_run(run_dir)).startswith(
        "With 30 epochs of pgd-at and clat, robust accuracy went from 20.0"
    )


def test_without_a_test_result_the_held_out_images_speak(tmp_path: Path) -> None:
    run = read_run(fake.write_interrupted(tmp_path / "run"))
    assert "There is no final test result" in sentence(run)
    assert "after epoch 3" in sentence(run)
    run.epochs = []
    assert sentence(run) == "This run has recorded no accuracy yet."


def test_where_the_test_split_decides_nothing_is_called_held_out(tmp_path: Path, run_dir: Path) -> None:
    run = read_run(fake.write_interrupted(tmp_path / "other"))
    run.recipe["data"] = {**run.recipe.get("data", {}), "decide_on": "test-split"}
    assert "on the images of the test split, which decide here, robust accuracy stands at" in sentence(run)
    assert "nothing was held out (data.decide_on)" in render(run)
    whole = read_run(run_dir)
    assert "these images chose the best epoch, the test split chose nothing" in render(whole)
    whole.recipe["data"] = {"decide_on": "test-split"}
    assert (overfitting(whole) or "").startswith("Robust accuracy on the test split, which decided,")


def test_one_result_alone_is_reported_with_its_interval(run_dir: Path) -> None:
    (run_dir / "evaluations" / "stage-1.json").unlink()
    assert "35.0 % (95 % interval 32.0 to 38.0 %, n = 1,000)" in sentence(read_run(run_dir))


def test_overfitting_is_the_gap_from_best_to_last(run_dir: Path) -> None:
    edit(
        run_dir / "summary.json",
        best={"epoch": 12, "heldout_robust": 0.40},
        last={"epoch": 30, "heldout_robust": 0.379},
        robust_overfitting=0.021,
    )
    words = (overfitting(read_run(run_dir)) or "").replace(SPACE, " ")
    assert "best after epoch 12 with 40.0 % and ended at 37.9 % after epoch 30" in words
    assert words.endswith("robust overfitting of 2.1 points.")
