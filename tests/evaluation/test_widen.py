"""Going on until an interval is narrow: which images, what it ends with, and how it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.evaluation import evaluate_set
from clat.evaluation.budget import random_order
from clat.evaluation.finite import count_interval
from clat.evaluation.widen import FIRST, PartialEvaluation, SetInterval, evaluate_until


class Case:
    def __init__(self, linear: Any) -> None:
        self.model = linear()
        pixels = torch.randint(
            100, 156, (600, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
        )
        with torch.no_grad():
            labels = self.model(pixels.float() / 255).argmax(1)
        self.images = ImageSet("greys", "test", tuple("abcde"), pixels, labels)
        self.order = random_order(600, 0)
        self.options = {
            "protocol": "fgsm",
            "eps": self.model.distances(pixels.float() / 255, labels).median().item(),
        }

    def until(self, width: float, **options: Any) -> PartialEvaluation:
        return evaluate_until(self.model, self.images, self.order, width, **{**self.options, **options})


@pytest.fixture
def case(linear: Any) -> Case:
    return Case(linear)


def test_it_stops_at_the_first_interval_that_is_narrow_enough(case: Case) -> None:
    told: list[SetInterval] = []
    found = case.until(12.0, told=told.append)
    assert told[0].n == FIRST
    assert all(known.width > 12 for known in told[:-1])
    assert told[-1] == found.whole
    assert found.whole.width <= 12
    assert FIRST < found.whole.n < 600
    assert [round(known.confidence, 4) for known in told] == [
        round(1 - 0.05 / (look * (look + 1)), 4) for look in range(1, len(told) + 1)
    ]
    whole = evaluate_set(case.model, case.images, **case.options)
    rows = case.order[: found.whole.n]
    assert torch.equal(found.evaluation.robust, whole.robust[rows])
    assert torch.equal(found.evaluation.samples, whole.samples[rows])
    low, high = found.whole.interval
    assert low <= whole.robust_accuracy.value <= high
    assert found.evaluation.to_dict()["data"]["n"] == found.whole.n


def test_all_images_leave_nothing_open(case: Case) -> None:
    found = case.until(0.01)
    whole = evaluate_set(case.model, case.images, **case.options)
    assert found.whole.n == 600
    assert found.whole.interval == (whole.robust_accuracy.value,) * 2


def test_a_small_set_is_taken_at_once(case: Case) -> None:
    case.order = case.order[:30]
    found = case.until(5.0)
    assert (found.whole.n, found.whole.of) == (30, 30)


def test_interrupted_and_resumed(case: Case, tmp_path: Path) -> None:
    whole = case.until(12.0)
    case.model.calls = 3
    with pytest.raises(KeyboardInterrupt):
        case.until(12.0, state=tmp_path / "state")
    case.model.calls = None
    resumed = case.until(12.0, state=tmp_path / "state")
    assert resumed.whole == whole.whole
    assert torch.equal(resumed.evaluation.robust, whole.evaluation.robust)
    assert (tmp_path / "state.look-1.0-0").exists()


def test_the_result_file(case: Case, tmp_path: Path) -> None:
    found = case.until(30.0)
    found.to_json(tmp_path / "part.json")
    data = json.loads((tmp_path / "part.json").read_text())
    assert data["what"] == "evaluation"
    whole = data["robust_accuracy_of_all"]
    assert (whole["n"], whole["of"]) == (FIRST, 600)
    confidence, robust = whole["confidence_of_last_look"], found.evaluation.robust_accuracy.correct
    low, high = count_interval(600, FIRST, robust, confidence)
    assert (whole["low"], whole["high"]) == (low / 600, high / 600)
    assert (whole["confidence"], round(confidence, 3)) == (0.95, 0.975)


@pytest.mark.parametrize("width", [0.0, -1.0, 101.0, float("nan")])
def test_what_is_no_width(case: Case, width: float) -> None:
    with pytest.raises(ClatError, match="expected percentage points"):
        case.until(width)
