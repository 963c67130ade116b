"""Tensors are written whole or not at all, and a disk that takes no more is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clat.core import tensors
from clat.core.errors import ClatError
from clat.core.tensors import write_tensors
from clat.evaluation.state import EvaluationState, StateFile


def full(*args: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.safetensors"
    write_tensors(file, {"a": torch.ones(2)}, {"key": "x"})
    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(ClatError, match=r"cannot write .*state\.safetensors: .*No space left on device"):
        write_tensors(file, {"a": torch.zeros(2)}, {"key": "x"})
    assert load_file(file)["a"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [file]


def test_an_evaluation_whose_state_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "save_file", full)
    standing = EvaluationState.fresh(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ClatError, match="No space left on device"):
        StateFile(tmp_path / "state", {}).save(standing, now=True)
