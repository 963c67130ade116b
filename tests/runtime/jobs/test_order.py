"""The longest chain first: closed forms, and the time that a scheduler without processes takes."""

from __future__ import annotations

import itertools
import random

import pytest

from clat.core.errors import ClatError
from clat.runtime.jobs import schedule
from clat.runtime.jobs.job import Job
from clat.runtime.jobs.order import chain_lengths, longest_first
from clat.runtime.jobs.schedule import run_jobs


class Clock:
    """A place for so many jobs, of which each ends after as many looks as it costs: a look is a unit of time."""

    def __init__(self, workers):
        self.workers, self.left, self.began, self.looks = workers, {}, [], 0

    def check(self, jobs):
        pass

    def has_room(self, job):
        return len(self.left) < self.workers

    def start(self, job):
        self.left[job.name] = int(job.cost)
        self.began.append(job.name)
        return Worked(self, job.name)

    def close(self):
        pass


class Worked:
    def __init__(self, clock, name):
        self.clock, self.name = clock, name

    def where(self):
        return "here"

    def exit_code(self):
        self.clock.left[self.name] -= 1
        if self.clock.left[self.name]:
            return None
        del self.clock.left[self.name]
        return 0

    def stop(self, number):
        pass


@pytest.fixture(autouse=True)
def _quickly(monkeypatch, tmp_path):
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    monkeypatch.setattr(schedule, "EARLY", 1)


def job(name, cost, *after, **settings):
    return Job(name=name, words=list, log=None, cost=cost, after=after, **settings)


def time_taken(jobs, workers):
    """The looks that all took, and the order in which they began."""
    clock, looks = Clock(workers), []
    assert run_jobs(jobs, clock, show=looks.append) == {}
    return len(looks) - 1, clock.began  # the last one finds all of them ended


def best_time(costs, workers):
    """The shortest time of all assignments of jobs to workers."""
    return min(
        max(
            sum(cost for cost, own in zip(costs, chosen, strict=True) if own == worker) for worker in range(workers)
        )
        for chosen in itertools.product(range(workers), repeat=len(costs))
    )


def test_the_longest_starts_first_and_ties_keep_the_order_of_the_table():
    jobs = [job("a", 1), job("b", 5), job("c", 3), job("d", 5), job("e", 1)]
    assert longest_first(jobs) == ["b", "d", "c", "a", "e"]
    assert longest_first([job(name, 0) for name in "zxy"]) == ["z", "x", "y"]


def test_a_short_job_that_much_waits_for_comes_before_a_long_one():
    jobs = [job("long", 8), job("short", 1), job("behind", 6, "short"), job("last", 5, "behind", "elsewhere")]
    assert chain_lengths(jobs) == {"long": 8, "short": 12, "behind": 11, "last": 5}
    assert time_taken(jobs, 2)[0] == 12


def test_a_row_that_takes_over_half_of_another_does_not_wait_for_its_end():
    jobs = [job("x", 10), job("x+clat", 9, "x", handover={"x": 5})]
    assert chain_lengths(jobs) == {"x": 14, "x+clat": 9}
    early = [jobs[0], job("x+clat", 3, "x", handover={"x": 5})]
    assert chain_lengths(early)["x"] == 10, "its own end comes later"


def test_a_circle_has_no_longest_chain_and_is_named(tmp_path):
    circle = [job("a", 2, "b"), job("b", 3, "a")]
    assert chain_lengths(circle) == {"a": 2, "b": 3}
    with pytest.raises(ClatError, match="wait for one another"):
        run_jobs(circle, Clock(2))


@pytest.mark.parametrize("costs", [[20, 22, 24, 25, 26, 27, 28, 30], [2, 3, 4, 6, 7, 9, 12, 40], [1] * 7 + [9]])
def test_eight_rows_on_two_workers_come_within_a_tenth_of_the_best(costs):
    for seed in range(5):
        shuffled = random.Random(seed).sample(costs, len(costs))
        taken, began = time_taken([job(str(number), cost) for number, cost in enumerate(shuffled)], 2)
        assert taken <= 1.1 * best_time(shuffled, 2)
        begun = [shuffled[int(name)] for name in began]
        assert begun == sorted(begun, reverse=True)


def test_no_table_takes_longer_than_the_bound_of_list_scheduling():
    """Graham 1969: at most 4/3 - 1/(3 m) of the best."""
    draw = random.Random(0)
    ratios = []
    for _ in range(100):
        costs = [draw.randint(1, 30) for _ in range(8)]
        ratios.append(time_taken([job(str(n), cost) for n, cost in enumerate(costs)], 2)[0] / best_time(costs, 2))
    assert max(ratios) <= 7 / 6
    assert sum(ratio <= 1.1 for ratio in ratios) >= 95


def test_dependencies_are_kept_whatever_is_longest():
    jobs = [job("a", 2), job("b", 30, "a"), job("c", 1, "b"), job("d", 9), job("e", 7), job("f", 7, "e")]
    taken, began = time_taken(jobs, 2)
    assert taken == 33
    for before, later in (("a", "b"), ("b", "c"), ("e", "f")):
        assert began.index(before) < began.index(later)
    assert began[0] == "a"


def test_a_long_job_without_room_is_not_overtaken():
    """One that asks for both workers would else wait until all short ones are done."""

    class Wide(Clock):
        def has_room(self, job):
            return not self.left if job.name == "wide" else "wide" not in self.left and super().has_room(job)

    clock = Wide(2)
    run_jobs([job("first", 2), job("wide", 50, "first"), *(job(f"short {n}", 3) for n in range(6))], clock)
    assert clock.began.index("wide") == 2


def test_a_strict_job_fails_with_what_it_waits_for(tmp_path):
    class Failing(Clock):
        def start(self, job):
            found = super().start(job)
            found.exit_code = lambda: self.left.pop(job.name) and 2
            return found

    (tmp_path / "a.log").write_text("clat: error: no such file\n")
    one = Job(name="a", words=list, log=tmp_path / "a.log", cost=1)
    told = []
    clock = Failing(1)
    jobs = [job("c", 1, "b", strict=True), job("b", 1, "a", strict=True), one]
    failures = run_jobs(jobs, clock, changed=lambda status: told.append((status.job.name, status.state)))
    assert failures["b"] == "a: no such file"
    assert failures["c"] == "b: a: no such file"
    assert clock.began == ["a", "a"]
    assert told[-2:] == [("b", "failed"), ("c", "failed")]
