"""Rows of known length on two local Ray nodes of one CPU each: wall time over the best assignment.

    python -m benchmarks.ray_rows --out docs/results/benchmarks/ray_rows.json
    python -m benchmarks.ray_rows --rows 20 21 22 24 25 27 29 60 --out one_long.json

The rows sleep, so that two cores stand for two machines; everything else is the real thing: the scheduler, the
cluster's check, an actor and a process of its own for each. They are listed in the worst order, the longest last,
and for comparison also run in that order, without their costs. The best assignment is that of all with the
shortest time, for the sleep alone: starting a process counts as loss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clat.runtime.jobs.cluster as cluster_module
from clat.core.environment import describe_environment
from clat.core.files import write_json
from clat.runtime.jobs.job import Job
from clat.runtime.jobs.remote import CommandRunner
from clat.runtime.jobs.schedule import run_jobs

SECONDS = (20.0, 21.0, 22.0, 24.0, 25.0, 27.0, 29.0, 30.0)
"""Length of each row."""


class Sleeper(CommandRunner):
    """Runs Python in place of `clat`, so that a row can be of known length."""

    def start(self, words: Sequence[str], log: str, folder: str, environment: Any) -> str:
        with open(log, "a") as output:
            self.process = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
        return "node"


def best_seconds(seconds: Sequence[float], workers: int) -> float:
    """Return the shortest time of all assignments of rows to workers.

    Args:
        seconds: of each row.
        workers: how many.

    Returns:
        Seconds.
    """

    def time_of(chosen: Sequence[int]) -> float:
        return max(
            sum(one for one, own in zip(seconds, chosen, strict=True) if own == worker) for worker in range(workers)
        )

    return min(map(time_of, itertools.product(range(workers), repeat=len(seconds))))


def wall_seconds(
    place: cluster_module.RayCluster, folder: Path, rows: Sequence[float], *, known: bool
) -> dict[str, Any]:
    """Return how long the rows take.

    Args:
        place: the cluster.
        folder: of their logs.
        rows: seconds of each.
        known: whether the scheduler knows how long each is.

    Returns:
        Seconds in all, and when each row was started and where it ran.
    """
    starts: dict[str, Any] = {}
    begin = time.perf_counter()

    def job(number: int, seconds: float) -> Job:
        name = f"row {number}, {seconds:g} s"
        return Job(
            name=name,
            words=lambda: ["-c", f"import time; time.sleep({seconds})"],
            log=folder / f"{'known' if known else 'unknown'}-{number}.log",
            cost=seconds if known else 0.0,
        )

    jobs = [job(number, seconds) for number, seconds in enumerate(rows)]
    failures = run_jobs(
        jobs,
        place,
        changed=lambda one: starts.setdefault(one.job.name, round(time.perf_counter() - begin, 2)),
    )
    if failures:
        raise SystemExit(f"rows failed: {failures}")
    return {"seconds": time.perf_counter() - begin, "started": starts}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=SECONDS, metavar="SECONDS", help="their lengths")
    parser.add_argument("--machine", default="", help="what it runs on, for the record")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    cluster_module.CommandRunner = Sleeper  # type: ignore[misc]
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    best = best_seconds(options.rows, 2)
    with tempfile.TemporaryDirectory() as folder:
        place = cluster_module.RayCluster(Path(folder) / "shared", address=cluster.address)
        runs = {
            "longest first": wall_seconds(place, Path(folder), options.rows, known=True),
            "in the table's order": wall_seconds(place, Path(folder), options.rows, known=False),
        }
        place.close()
    cluster.shutdown()
    found = {
        "benchmark": "ray_rows",
        "rows": list(options.rows),
        "nodes": 2,
        "machine": options.machine,
        "best seconds": best,
        "runs": runs,
        "over the best": {name: run["seconds"] / best for name, run in runs.items()},
        "environment": describe_environment("cpu"),
    }
    print(json.dumps(found, indent=1))
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
