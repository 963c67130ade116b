"""Writes behind training: in order, at most two at a time, and an error is told before anything else is written."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.training import saving
from clat.training.writer import PENDING, BackgroundWriter
from helpers import runs as kit

CPU = torch.device("cpu")


def test_writes_are_done_in_order_and_closing_finishes_them():
    writer, done = BackgroundWriter(CPU), []
    for number in range(5):
        writer.submit(lambda number=number: (time.sleep(0.01), done.append(number)))
    writer.close()
    assert done == list(range(5))
    assert not [thread for thread in threading.enumerate() if thread.name == "clat-writer"]


def test_who_gives_waits_while_two_writes_are_to_be_done():
    writer, going_on, given = BackgroundWriter(CPU), threading.Event(), []

    def give():
        for number in range(PENDING + 1):
            writer.submit(going_on.wait)
            given.append(number)

    thread = threading.Thread(target=give)
    thread.start()
    time.sleep(0.1)
    assert len(given) == PENDING
    going_on.set()
    thread.join()
    writer.close()
    assert len(given) == PENDING + 1


def test_an_error_is_told_and_nothing_is_written_after_it():
    writer, done = BackgroundWriter(CPU), []
    ready = threading.Event()

    def fail():
        ready.wait()
        raise ClatError("no space left")

    writer.submit(fail)
    writer.submit(lambda: done.append("after"))
    ready.set()
    with pytest.raises(ClatError, match="no space"):
        writer.wait()
    with pytest.raises(ClatError, match="no space"):
        writer.submit(lambda: done.append("later"))
    writer.close()
    assert not done


def test_training_goes_on_while_a_state_is_written_and_is_at_most_one_ahead(tmp_path, monkeypatch):
    """A disk that takes its time: the state on it is that of an epoch that was, not of the weights of now."""
    original, written, seen = saving.save_state, [], []

    def slowly(path, saved, hash_):
        time.sleep(0.05)
        original(path, saved, hash_)
        written.append((saved.progress.epoch, saved.weights["conv1.weight"].clone()))
        seen.append({name for name in ("best.safetensors",) if (tmp_path / "run" / "weights" / name).exists()})

    monkeypatch.setattr(saving, "save_state", slowly)
    clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    monkeypatch.undo()
    clat.train(kit.recipe(), tmp_path / "other", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "other", tmp_path / "run")
    epochs = [epoch for epoch, _ in written]
    assert epochs == sorted(epochs)
    assert all(seen), "the best weights are there before the state that speaks of them"
    assert torch.equal(written[-1][1], kit.weights(tmp_path / "run", "last")["conv1.weight"])


def test_a_full_disk_ends_a_run_in_one_line_and_leaves_the_state_before(tmp_path, monkeypatch):
    original, count = saving.save_state, [0]

    def full(path, saved, hash_):
        count[0] += 1
        if count[0] == 2:
            raise ClatError(f"cannot write {path}: No space left on device")
        original(path, saved, hash_)

    monkeypatch.setattr(saving, "save_state", full)
    with pytest.raises(ClatError, match="No space left"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert kit.progress(tmp_path / "run")["epoch"] == 1
    assert count[0] == 2
