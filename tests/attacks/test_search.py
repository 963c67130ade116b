"""Running a search: a toy one whose samples need known numbers of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clat.attacks.search import CPU_BYTES, SearchState, at_a_time, run_search, run_searches, worthwhile


class Countdown:
    """Sample i is done after as many steps as its image says, and its example says how many it was given and
    what number it goes by. Samples that are done must be left as they are; here that is visible."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.started: list[int] = []
        self.steps_of_done = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        self.started += ids.tolist()
        wanted = x[:, 0, 0, 0].long()
        adv = torch.zeros_like(x)
        adv[:, 1, 0, 0] = ids.to(x.dtype)
        adv[:, 2, 0, 0] = y.to(x.dtype)
        return {"adv": adv, "left": wanted, "done": wanted == 0}

    def step(self, state: SearchState) -> None:
        self.batches.append(len(state["done"]))
        active = ~state["done"]
        self.steps_of_done += int(state["done"].sum())
        state["adv"][active, 0, 0, 0] += 1
        state["left"] = state["left"] - active.long()
        state["done"] = state["left"] <= 0


def samples(*steps: int) -> tuple[Tensor, Tensor]:
    x = torch.zeros(len(steps), 3, 1, 1)
    x[:, 0, 0, 0] = torch.tensor(steps)
    return x, torch.arange(len(steps)) + 100


MIXED = (3, 0, 7, 1, 1, 12, 0, 5, 2, 9, 4)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 10, 11, 50])
def test_every_sample_gets_its_own_steps_exactly_once(batch_size: int | None) -> None:
    x, y = samples(*MIXED)
    search, seen = Countdown(), []

    def finished(rows: Tensor, adv: Tensor) -> None:
        assert torch.equal(adv[:, 0, 0, 0], x[rows, 0, 0, 0])
        assert torch.equal(adv[:, 2, 0, 0].long(), y[rows])
        seen.extend(rows.tolist())

    adv = run_search(search, x, y, batch_size=batch_size, finished=finished)
    assert adv[:, 0, 0, 0].tolist() == list(MIXED)
    assert adv[:, 1, 0, 0].tolist() == list(range(11))
    assert adv[:, 2, 0, 0].tolist() == y.tolist()
    assert sorted(seen) == list(range(11))
    assert sorted(search.started) == list(range(11))
    assert max(search.batches) <= (batch_size or 11)


def test_numbers_go_with_their_samples() -> None:
    x, y = samples(2, 1, 3)
    adv = run_search(Countdown(), x, y, torch.tensor([40, 7, 13]), batch_size=2)
    assert adv[:, 1, 0, 0].tolist() == [40, 7, 13]


def test_a_place_that_becomes_free_is_filled_at_once() -> None:
    """One place: the steps are the sum. Two places, one taken for long: the others pass through the second."""
    x, y = samples(4, 1, 1, 1)
    search = Countdown()
    run_search(search, x, y, batch_size=1)
    assert search.batches == [1] * 7
    search = Countdown()
    run_search(search, x, y, batch_size=2)
    assert search.batches == [2, 2, 2, 1]
    assert search.steps_of_done == 0


def test_samples_leave_a_large_batch_before_waiting_costs_a_quarter_of_a_step() -> None:
    """Gathering the rest costs, so those that are done wait, though they are not searched on."""
    search = Countdown()
    x, y = samples(*range(1, 33))
    adv = run_search(search, x, y)
    assert adv[:, 0, 0, 0].tolist() == list(range(1, 33))
    assert search.batches[:4] == [32, 32, 32, 32]
    assert search.batches[4] == 28
    assert 0 < search.steps_of_done <= sum(search.batches) / 4


class Successes(Countdown):
    """The `number`-th of several searches on a sample needs as many steps as its channel says; y decides which of
    them succeeds."""

    def __init__(self, number: int, log: list[tuple[int, int]]) -> None:
        super().__init__()
        self.number, self.log = number, log

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        self.log += [(self.number, row) for row in ids.tolist()]
        state = super().start(x, y, ids)
        state["adv"][:, 1, 0, 0] = float(self.number)
        return state


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_searches_on_the_same_samples(batch_size: int) -> None:
    """Each wanted pair is searched for once, but for those of a sample that an earlier one has settled."""
    x, _ = samples(*MIXED)
    success = torch.tensor([0, 1, 2, 9, 9, 0, 1, 9, 2, 0, 9])
    log: list[tuple[int, int]] = []
    searches = [Successes(number, log) for number in range(3)]
    wanted = torch.ones(3, len(x), dtype=torch.bool)
    wanted[1, 4] = wanted[0, 7] = False
    settled = torch.zeros(len(x), dtype=torch.bool)
    seen: list[tuple[int, int]] = []

    def finished(numbers: Tensor, rows: Tensor, adv: Tensor) -> Tensor:
        assert torch.equal(adv[:, 1, 0, 0].long(), numbers)
        assert torch.equal(adv[:, 0, 0, 0], x[rows, 0, 0, 0])
        assert not settled[rows].any()
        seen.extend(zip(numbers.tolist(), rows.tolist(), strict=True))
        settled[rows[success[rows] == numbers]] = True
        return settled

    run_searches(searches, x, success, wanted=wanted, batch_size=batch_size, finished=finished)
    assert len(set(seen)) == len(seen) <= len(log) == len(set(log))
    assert torch.equal(settled, success < 3)
    for row in range(len(x)):
        known = {number for number, one in seen if one == row}
        if settled[row]:
            assert int(success[row]) in known
        else:
            assert known == {number for number in range(3) if wanted[number, row]}
    if batch_size == 1:
        assert log == seen
        assert not [pair for pair in log if pair[0] > success[pair[1]]]
    assert max(searches[0].batches) <= batch_size


@pytest.mark.parametrize(
    ("side", "device", "expected"),
    [(32, "cpu", 250), (128, "cpu", 42), (224, "cpu", 13), (4096, "cpu", 1), (4096, "cuda", 250)],
)
def test_on_a_cpu_no_more_images_are_taken_together_than_pay(side: int, device: str, expected: int) -> None:
    found = at_a_time(250, (3, side, side), torch.device(device))
    assert found == expected
    assert device == "cuda" or found == 1 or found * 4 * 3 * side**2 <= CPU_BYTES


def test_guesses_fill_a_forward_pass_on_a_cpu_only_as_far_as_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clat.attacks.search.CPU_BATCH", 6)
    x, y = samples(5, 5, 5, 5)
    log: list[tuple[int, int]] = []
    searches = [Successes(number, log) for number in range(3)]
    run_searches(searches, x, y, batch_size=100, finished=lambda *what: None)
    assert searches[0].batches == [6] * 10
    assert worthwhile(100, torch.device("cpu")) == 6
    assert worthwhile(3, torch.device("cpu")) == 3
    assert worthwhile(100, torch.device("cuda")) == 100


class Claims(Countdown):
    """Every sample's example is claimed after its first step, if it has another one."""

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        state = super().start(x, y, ids)
        return state | {"claim": torch.zeros_like(state["done"])}

    def step(self, state: SearchState) -> None:
        super().step(state)
        state["claim"] = (state["adv"][:, 0, 0, 0] == 1) & ~state["done"]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_claims_are_told_once_and_what_they_settle_is_given_up(batch_size: int) -> None:
    x, y = samples(*MIXED)
    claimed, ended = [], []
    settled = torch.zeros(len(x), dtype=torch.bool)

    def claim(numbers: Tensor, rows: Tensor, adv: Tensor) -> Tensor:
        assert numbers.tolist() == [0] * len(rows)
        assert adv[:, 0, 0, 0].tolist() == [1] * len(rows)
        claimed.extend(rows.tolist())
        settled[rows[rows % 2 == 0]] = True
        return settled

    run_searches(
        [Claims()], x, y, batch_size=batch_size, claimed=claim,
        finished=lambda numbers, rows, adv: ended.extend(rows.tolist()),
    )  # fmt: skip
    several = [row for row, steps in enumerate(MIXED) if steps > 1]
    assert sorted(claimed) == several
    assert sorted(ended) == [row for row in range(len(MIXED)) if row not in several or row % 2]
    unheard = Claims()
    assert run_search(unheard, x, y, batch_size=batch_size)[:, 0, 0, 0].tolist() == list(MIXED)


def test_input_is_left_alone_and_empty_is_empty() -> None:
    x, y = samples(1, 2)
    kept = x.clone()
    run_search(Countdown(), x, y)
    assert torch.equal(x, kept)
    search = Countdown()
    assert run_search(search, x[:0], y[:0]).shape == (0, 3, 1, 1)
    assert not search.started
