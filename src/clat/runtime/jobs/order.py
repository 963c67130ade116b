"""The order in which jobs are started: the longest chain first, so that no long one is left for the end."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from clat.runtime.jobs.job import Job


def longest_first(jobs: Sequence[Job]) -> list[str]:
    """Return the names of jobs in the order in which they are to be started, where several could be.

    Args:
        jobs: in the table's order, which ties keep.

    Returns:
        The names, by falling length of the chain that begins with the job (list scheduling by the critical path,
        Graham 1969: on m machines at most 4/3 - 1/(3 m) of the best time where none waits for another).
    """
    chains = chain_lengths(jobs)
    return sorted(chains, key=lambda name: -chains[name])  # a stable sort


def chain_lengths(jobs: Sequence[Job]) -> dict[str, float]:
    """Return how long it takes at least from the start of each job to the end of all that waits for it.

    What a job itself has waited for has ended when it may start, so that has no say.

    Args:
        jobs: with their costs; names in `after` that are not among them do not count.

    Returns:
        Name -> length, in the unit of the costs; the jobs' own costs where they wait for one another in a circle.
    """
    by_name = {job.name: job for job in jobs}
    behind: dict[str, list[Job]] = {name: [] for name in by_name}
    for job in jobs:
        for name in job.after:
            if name in behind:
                behind[name].append(job)
    found = {job.name: job.cost for job in jobs}
    try:
        order = list(
            TopologicalSorter({name: [one.name for one in later] for name, later in behind.items()}).static_order()
        )
    except CycleError:
        return found
    for name in order:  # those behind it come before it
        for later in behind[name]:
            begins = min(later.handover.get(name, by_name[name].cost), by_name[name].cost)
            found[name] = max(found[name], begins + found[later.name])
    return found
