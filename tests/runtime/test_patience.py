"""Processes wait for one another for as long as it takes."""

from __future__ import annotations

import threading
import time

import pytest
from torch.distributed import HashStore

from clat.runtime import patience


def test_all_leave_once_the_last_one_is_there(monkeypatch):
    store, left = HashStore(), []
    monkeypatch.setattr(patience, "common_store", lambda: store)
    numbers = {0: iter(range(9)), 1: iter(range(9))}  # each process counts its own calls
    here = threading.local()
    monkeypatch.setattr(patience, "_calls", type("Calls", (), {"__next__": lambda _: next(numbers[here.rank])})())

    def process(rank: int, delays: tuple[float, float]) -> None:
        here.rank = rank
        for number, delay in enumerate(delays):
            time.sleep(delay)
            patience.wait_for_all(2)
            left.append((number, rank, time.monotonic()))

    start = time.monotonic()
    threads = [threading.Thread(target=process, args=one) for one in ((0, (0.0, 0.4)), (1, (0.4, 0.0)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((number, rank) for number, rank, _ in left) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert min(when for number, _, when in left if number == 0) - start >= 0.4
    assert min(when for number, _, when in left if number == 1) - start >= 0.8


def test_one_process_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(patience, "common_store", lambda: pytest.fail("there is no store"))
    patience.wait_for_all(1)
