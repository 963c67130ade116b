"""Results read back: what an evaluation writes, and every file that was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clat import evaluate
from clat.core.errors import ClatError
from clat.evaluation import Accuracy, EvaluationRecord
from clat.evaluation.compare import compare
from clat.evaluation.result import RecordedAccuracy

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def is_evaluation(path: Path) -> bool:
    data = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(data, dict) and data.get("what") == "evaluation"


RECORDED = [path for path in sorted(RESULTS.rglob("*.json")) if is_evaluation(path)]


def test_a_written_result_is_read_back(linear: Any, samples: Any, tmp_path: Path) -> None:
    model = linear(seed=0)
    x, y = samples(model, 30)
    about = {"label": "last", "data": {"name": "mine", "split": "test", "n": 30}}
    result = evaluate(model, x, y, protocol="apgd", eps="8/255", about=about)
    result.to_json(tmp_path / "result.json")
    record = EvaluationRecord.from_json(tmp_path / "result.json")
    assert record.to_dict() == json.loads(json.dumps(result.to_dict()))
    assert record == EvaluationRecord.from_dict(record.to_dict(), record.name)
    for kind in ("clean_accuracy", "robust_accuracy"):
        written, read = getattr(result, kind), getattr(record, kind)
        assert (read.value, (read.low, read.high), read.n) == (written.value, written.interval, written.n)
    correct, robust = record.verdicts()
    assert torch.equal(correct, result.correct)
    assert torch.equal(robust, result.robust)
    assert record.per_attack.keys() == result.per_attack.keys()
    assert (record.label, record.eps, record.images) == ("last", "8/255", result.images)
    assert record.setting == {
        "protocol": {"name": "apgd", "hash": result.protocol.hash},
        "norm": "linf", "eps": "8/255", "data": {"name": "mine", "split": "test"}, "n": 30,
    }  # fmt: skip
    record.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "result.json").read_bytes()
    assert compare(record, result).differences["robust"].value == 0


def test_there_is_something_recorded() -> None:
    assert len(RECORDED) >= 49


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_recorded_result_is_read(path: Path) -> None:
    record = EvaluationRecord.from_json(path)
    correct, robust = record.verdicts()
    assert not (robust & ~correct).any()
    for flags, read in ((correct, record.clean_accuracy), (robust, record.robust_accuracy)):
        expected = Accuracy(int(flags.sum()), len(flags))
        assert read is not None
        assert (read.value, read.n) == (expected.value, expected.n)
        assert (read.low, read.high) == pytest.approx(expected.interval, abs=1e-12)
    assert list(record.per_attack.values())[-1] == record.robust_accuracy
    assert None not in (record.protocol_hash, record.eps, record.setting["norm"], record.setting["data"]["name"])
    assert record.to_dict() == json.loads(path.read_text(encoding="utf-8"))


def test_what_a_file_does_not_say_is_none() -> None:
    record = EvaluationRecord.from_dict({"robust_accuracy": {"value": 0.3}, "per_attack": None}, "torn.json")
    assert record.robust_accuracy == RecordedAccuracy(0.3, None, None, None)
    assert str(record.robust_accuracy) == "30.0%"
    assert (record.clean_accuracy, record.eps, record.images, record.per_attack) == (None, None, None, {})
    assert (record.label, record.protocol) == ("torn.json", "unnamed protocol")
    assert record.setting["n"] is None
    with pytest.raises(ClatError, match=r"torn\.json is no result of `clat evaluate`: it lacks verdicts"):
        record.verdicts()


def test_intervals_overlap_or_not_or_are_not_known() -> None:
    one, other, apart = (
        RecordedAccuracy(0.5, low, high, 10) for low, high in ((0.4, 0.6), (0.6, 0.7), (0.65, 0.8))
    )
    assert one.overlaps(other)
    assert one.overlaps(apart) is False
    assert one.overlaps(RecordedAccuracy(0.5, None, None, 10)) is None
    assert str(one) == "50.0% [40.0%, 60.0%]"


@pytest.mark.parametrize("text", ["[]", "3", '{"what": "transfer"}', "{"])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ClatError, match=r"other\.json is no result of `clat evaluate`"):
        EvaluationRecord.from_json(tmp_path / "other.json")
    with pytest.raises(ClatError, match="cannot read"):
        EvaluationRecord.from_json(tmp_path / "gone.json")


def test_old_names_of_the_result() -> None:
    import clat
    from clat.evaluation import Evaluation
    from clat.evaluation.evaluate import Evaluation as before
    from clat.evaluation.result import Evaluation as now

    assert clat.Evaluation is Evaluation is before is now
    assert clat.EvaluationRecord is EvaluationRecord
