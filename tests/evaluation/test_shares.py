"""Shares of images: nothing twice, nothing left out, small ones last, taken on demand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist

from clat.evaluation.shares import Shares, cut_shares


@pytest.mark.parametrize("count", [1, 2, 7, 8, 23, 500, 10_000])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("largest", [5, 300])
def test_every_image_is_in_one_share(count: int, world: int, largest: int) -> None:
    shares = cut_shares(count, world, largest)
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(count))
    assert all((later > earlier) for share in shares for earlier, later in pairwise(share.tolist()))
    assert max(map(len, shares)) <= largest
    assert all(torch.equal(a, b) for a, b in zip(shares, cut_shares(count, world, largest), strict=True))


def test_one_process_takes_them_in_order() -> None:
    assert [share.tolist() for share in cut_shares(5, 1, 2)] == [[0, 1], [2, 3], [4]]


def test_shares_fall_in_size_and_are_mixed() -> None:
    """The robust images may all come last in the set, and still are in every share."""
    shares = cut_shares(1000, 2, 1000)
    assert [len(share) for share in shares] == [400, 400, 70, 70, 30, 30]
    assert all(0.3 < (share >= 500).double().mean() < 0.7 for share in shares)
    assert [len(share) for share in cut_shares(1001, 2, 1000, uneven=False)] == [501, 500]
    assert [len(share) for share in cut_shares(1000, 2, 300)] == [300, 100, 300, 100, 70, 70, 30, 30]


@pytest.mark.parametrize("robust", [50, 250])
def test_nobody_waits_long_for_the_robust_images(robust: int) -> None:
    """Of 500, the last ones robust and each a hundred times as much work: two processes that take shares as they
    become free are at least 1.8 times one."""
    work = torch.ones(500)
    work[-robust:] = 100
    busy = [0.0, 0.0]
    for number, share in enumerate(cut_shares(500, 2, 500)):
        taker = number if number < 2 else busy.index(min(busy))
        busy[taker] += float(work[share].sum())
    assert work.sum() / max(busy) >= 1.8


class Store:
    """What torch.distributed's processes count in."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def add(self, key: str, step: int) -> int:
        self.values[key] = self.values.get(key, 0) + step
        return self.values[key]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[Shares, Shares]:
    """Both processes' views of seven shares."""
    store = Store()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    first, second = Shares(7, 0, 2), Shares(7, 1, 2)
    second._key = first._key
    return first, second


def test_a_free_process_takes_the_next_one(two: tuple[Shares, Shares]) -> None:
    first, second = map(iter, two)
    assert (next(first), next(second)) == (0, 1)
    assert [next(second) for _ in range(4)] == [2, 3, 4, 5], "while the first is still at work"
    assert list(first) == [6]
    assert list(second) == []


def test_one_that_gives_up_ends_it_for_all(two: tuple[Shares, Shares]) -> None:
    first, second = iter(two[0]), iter(two[1])
    assert (next(first), next(second), next(first)) == (0, 1, 2)
    two[1].give_up()
    assert list(first) == []


def test_alone_it_is_a_range() -> None:
    alone = Shares(3, 0, 1)
    assert list(alone) == [0, 1, 2]
    alone.give_up()
    assert list(Shares(1, 1, 2)) == [], "more processes than shares"
