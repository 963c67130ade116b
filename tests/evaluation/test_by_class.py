"""Class by class: accuracies and confusion in closed form, and what an evaluation says samples are taken for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clat.core.errors import ClatError
from clat.evaluation import AttackSpec, EvaluationRecord, Protocol, evaluate
from clat.evaluation.by_class import class_accuracies, confusion
from clat.evaluation.state import StateFile

Linear = Callable[..., Any]
EPS = 0.075
TWO = Protocol(
    name="two",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=2),
        AttackSpec(attack="apgd", loss="dlr-targeted", targets=3, steps=5),
    ),
)


def test_accuracies_of_each_class() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    correct = torch.tensor([True, False, True, True, True])
    robust = torch.tensor([False, False, True, False, True])
    rows = class_accuracies(labels, correct, robust, ["cat", "dog", "eel"])
    assert rows[0] == {"class": "cat", "n": 2, "clean": 0.5, "robust": 0.0}
    assert rows[1] == {"class": "dog", "n": 3, "clean": 1.0, "robust": pytest.approx(2 / 3)}
    assert rows[2] == {"class": "eel", "n": 0, "clean": None, "robust": None}


def test_confusion_counts_what_is_taken_for_what() -> None:
    labels, predicted = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 0, -1, 7])
    assert confusion(labels, predicted, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("protocol", ["pgd-10", TWO])
def test_what_samples_are_taken_for_is_what_the_network_says(
    linear: Linear, samples: Linear, protocol: str | Protocol
) -> None:
    """Of the clean image where that is wrong or nothing fools it, of the example where one does."""
    model = linear()
    x, y = samples(model)
    result = evaluate(model, x, y, protocol=protocol, eps=EPS, keep_examples=True)
    assert 0 < result.robust.sum() < result.correct.sum() < len(x)
    assert result.x_adv is not None
    with torch.no_grad():
        clean, attacked = model(x).argmax(1), model(result.x_adv).argmax(1)
    assert torch.equal(result.predicted, torch.where(result.robust | ~result.correct, clean, attacked))
    assert torch.equal(result.predicted == y, result.robust)
    record = EvaluationRecord.from_dict(result.to_dict())
    assert record.labels is not None
    assert record.predicted is not None
    assert torch.equal(record.labels, y)
    assert torch.equal(record.predicted, result.predicted)
    assert torch.equal(
        evaluate(model, x, y, protocol=protocol, eps=EPS, batch_size=3).predicted == y, result.robust
    )


def test_a_file_without_classes_has_none(linear: Linear, samples: Linear) -> None:
    model = linear()
    x, y = samples(model, 4)
    data = evaluate(model, x, y, protocol="fgsm", eps=EPS).to_dict()
    for broken in (None, 3, "1 2 x", "9" * 40):
        assert EvaluationRecord.from_dict({**data, "predicted": broken}).predicted is None
    del data["labels"]
    assert EvaluationRecord.from_dict(data).labels is None


def test_a_state_keeps_what_samples_are_taken_for(linear: Linear, samples: Linear, tmp_path: Path) -> None:
    model = linear()
    x, y = samples(model)
    whole = evaluate(model, x, y, protocol=TWO, eps=EPS)
    model.calls = 9
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, x, y, protocol=TWO, eps=EPS, state=tmp_path / "s", batch_size=4)
    model.calls = None
    resumed = evaluate(model, x, y, protocol=TWO, eps=EPS, state=tmp_path / "s", batch_size=4)
    assert torch.equal(resumed.robust, whole.robust)
    assert torch.equal(resumed.predicted == y, whole.robust)


def test_a_state_of_an_older_version_goes_on_without(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    parts = {"correct": torch.ones(2, dtype=torch.bool), "fooled_by": torch.tensor([-1, 0])}
    save_file({**parts, "passed": torch.tensor([0, 1])}, tmp_path / "s", {"key": "{}"})
    standing = StateFile(tmp_path / "s", {}).load()
    assert standing is not None
    assert standing.predicted.tolist() == [-1, -1]
    save_file(parts, tmp_path / "t", {"key": "{}"})
    with pytest.raises(ClatError, match="is not an evaluation's state"):
        StateFile(tmp_path / "t", {}).load()
