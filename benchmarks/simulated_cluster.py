"""A discrete simulation of tasks on workers, as `clat.runtime.jobs.schedule` runs them: some slow, some failing.

A task is started when a worker is free, in the order given, once the task that it builds on has come far enough. A
worker that fails loses what its task had not saved and is away for a while; the task goes on elsewhere, first in
line, and is given up after its second failure.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SimulatedTask:
    """A row of a study, or a share of an evaluation.

    Attributes:
        name: its name, once.
        seconds: of work on a worker of speed 1.
        after: the task that it builds on; "": none.
        needs: seconds of that one's work after which this one may start.
    """

    name: str
    seconds: float
    after: str = ""
    needs: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SimulatedCluster:
    """What tasks run on.

    Attributes:
        workers: how many, each one GPU.
        slow: share of the workers that are slow.
        speed: of a slow worker; the others have 1.
        mean_life: hours that a worker works between two failures; 0: none fails.
        away: seconds that a worker which failed is away.
        start: seconds that a task takes to start, or start again.
        saved: seconds of work between two states of a task.
        attempts: so often a task is started; then it has failed.
    """

    workers: int
    slow: float = 0.0
    speed: float = 0.7
    mean_life: float = 0.0
    away: float = 600.0
    start: float = 15.0
    saved: float = 60.0
    attempts: int = 2


@dataclass
class Outcome:
    """What became of the tasks.

    Attributes:
        seconds: until the last one ended.
        failures: workers that failed with a task.
        given_up: tasks that failed as often as they are started.
        idle: worker-seconds without a task, until the end.
    """

    seconds: float = 0.0
    failures: int = 0
    given_up: list[str] = field(default_factory=list)
    idle: float = 0.0


def simulate(tasks: Sequence[SimulatedTask], cluster: SimulatedCluster, seed: int = 0) -> Outcome:
    """Return what becomes of tasks on a cluster.

    Args:
        tasks: in the order in which they are started where several could be.
        cluster: what they run on.
        seed: of which workers are slow, and when they fail.

    Returns:
        The outcome; a task whose predecessor was given up starts all the same, as in a study.
    """
    draw = random.Random(seed)
    slow = set(draw.sample(range(cluster.workers), round(cluster.slow * cluster.workers)))
    done = dict.fromkeys((task.name for task in tasks), 0.0)
    tries = dict.fromkeys(done, 0)
    ended: set[str] = set()
    waiting, free, outcome, busy = list(tasks), list(range(cluster.workers)), Outcome(), 0.0
    events: list[tuple[float, int, str, int, SimulatedTask | None]] = []
    numbers = itertools.count()

    def push(time: float, kind: str, worker: int, task: SimulatedTask | None) -> None:
        heapq.heappush(events, (time, next(numbers), kind, worker, task))

    marks = {task.after: task.needs for task in tasks if task.after}

    def begin(now: float, task: SimulatedTask, worker: int) -> float:
        """Start a task and return how long this attempt takes."""
        speed = cluster.speed if worker in slow else 1.0
        tries[task.name] += 1
        takes = cluster.start + (task.seconds - done[task.name]) / speed
        life = draw.expovariate(1 / (3600 * cluster.mean_life)) if cluster.mean_life else float("inf")
        mark = marks.get(task.name, 0.0)
        if done[task.name] < mark:
            reached = cluster.start + (mark - done[task.name]) / speed
            if reached < min(life, takes):
                push(now + reached, "mark", worker, task)
        if life >= takes:
            push(now + takes, "end", worker, task)
            return takes
        made = max(0.0, life - cluster.start) * speed
        done[task.name] += max(0.0, made - draw.uniform(0.0, min(cluster.saved, made)))
        push(now + life, "failure", worker, task)
        return life

    reached: set[str] = set()
    now = 0.0
    while waiting or events:
        for task in list(waiting):
            if not free:
                break
            if not task.after or task.after in ended or task.after in reached or task.after not in done:
                waiting.remove(task)
                busy += begin(now, task, free.pop())
        if not events:
            break
        now, _, kind, worker, found = heapq.heappop(events)
        if kind == "mark" and found is not None:
            reached.add(found.name)
        elif kind == "back":
            free.append(worker)
        elif found is not None:
            outcome.seconds = now
            if kind == "end":
                ended.add(found.name)
                free.append(worker)
                continue
            outcome.failures += 1
            push(now + cluster.away, "back", worker, None)
            if tries[found.name] < cluster.attempts:
                waiting.insert(0, found)
            else:
                outcome.given_up.append(found.name)
                ended.add(found.name)
    outcome.idle = cluster.workers * outcome.seconds - busy
    return outcome


def lower_bound(tasks: Sequence[SimulatedTask], cluster: SimulatedCluster) -> float:
    """Return the seconds below which no assignment comes: all work over all workers, or the longest chain.

    Args:
        tasks: the tasks.
        cluster: what they run on; none is slow, none fails.

    Returns:
        Seconds.
    """
    by_name = {task.name: task for task in tasks}
    work = sum(cluster.start + task.seconds for task in tasks) / cluster.workers

    def chain(task: SimulatedTask) -> float:
        before = by_name.get(task.after)
        waits = 0.0 if before is None else chain(before) - before.seconds + min(task.needs, before.seconds)
        return waits + cluster.start + task.seconds

    return max(work, *(chain(task) for task in tasks))
