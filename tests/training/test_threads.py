"""TensorBoard's numbers lie where it finds them, and a disk that takes no more is told in one line."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import clat
from helpers import runs as kit

pytest.importorskip("tensorboard")


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_epochs_numbers_are_there(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    expected = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in expected if record["event"] == "epoch"]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_a_disk_that_is_full_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard meets it in a thread of its own, whose traceback Python prints; the run goes on without it."""
    hook = threading.excepthook
    with monkeypatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert capfd.readouterr().err == ""
    assert threading.excepthook is hook
