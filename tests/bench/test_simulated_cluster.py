"""The simulated cluster against what can be said without one."""

from __future__ import annotations

import pytest
from benchmarks.simulated_cluster import SimulatedCluster, SimulatedTask, lower_bound, simulate


def tasks(*seconds):
    return [SimulatedTask(name=str(number), seconds=one) for number, one in enumerate(seconds)]


def test_one_worker_takes_the_sum_and_many_the_longest():
    some = tasks(10, 20, 30)
    for workers, expected in ((1, 66), (2, 44), (3, 32), (9, 32)):
        cluster = SimulatedCluster(workers=workers, start=2)
        assert simulate(some, cluster).seconds == expected
        assert lower_bound(some, cluster) <= expected
    assert simulate(some, SimulatedCluster(workers=1, start=2)).idle == 0
    assert simulate(some, SimulatedCluster(workers=2, start=2)).idle == 22


def test_a_task_starts_when_what_it_builds_on_has_come_far_enough():
    first, second = tasks(100, 50)
    second = SimulatedTask(name="second", seconds=50, after=first.name, needs=40)
    cluster = SimulatedCluster(workers=2, start=0)
    assert simulate([first, second], cluster).seconds == 100
    longer = SimulatedTask(name="longer", seconds=90, after=first.name, needs=40)
    assert simulate([first, longer], cluster).seconds == 130 == lower_bound([first, longer], cluster)


def test_slow_workers_take_longer():
    cluster = SimulatedCluster(workers=4, slow=0.25, speed=0.5, start=0)
    assert simulate(tasks(10, 10, 10, 10), cluster).seconds == 20


def test_failures_cost_what_was_not_saved_and_a_task_is_given_up_after_two():
    calm = SimulatedCluster(workers=8, start=1, attempts=10**6, away=0)
    stormy = SimulatedCluster(workers=8, start=1, attempts=10**6, away=0, mean_life=1.0, saved=60)
    work = tasks(*[3600.0] * 64)
    quiet, loud = simulate(work, calm), simulate(work, stormy)
    assert quiet.failures == 0
    assert 30 < loud.failures < 150, "an hour of work, a life of an hour"
    assert quiet.seconds < loud.seconds < 1.5 * quiet.seconds
    assert not loud.given_up
    given_up = simulate(work, SimulatedCluster(workers=8, mean_life=0.2)).given_up
    assert 0 < len(given_up) <= 64
    assert simulate(work, stormy, seed=1).seconds == pytest.approx(simulate(work, stormy, seed=1).seconds)
