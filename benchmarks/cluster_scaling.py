"""Studies and evaluations on 1, 8, 64 and 512 GPUs, simulated from measured pieces:

    python -m benchmarks.cluster_scaling --out docs/results/benchmarks/cluster_scaling.json

The study: eight methods alone and with CLAT, four networks, three seeds, 192 rows of 100 epochs of CIFAR-10; a row
with CLAT takes over the first 50 epochs of the one without. Seconds of a step are those that `benchmarks.scaling`
counts for an H100, of other methods than PGD-AT and CLAT by the passes that `benchmarks.objective_cost` counts. The
evaluation: AutoAttack with WRN-34-10 on 10,000 images, half of them robust, cut into shares by the code that cuts
them. Starting a process is measured here, in CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.simulated_cluster import SimulatedCluster, SimulatedTask, lower_bound, simulate
from clat.core.environment import describe_environment
from clat.core.files import write_json
from clat.evaluation.effort import survivor_passes
from clat.evaluation.protocols import find_protocol
from clat.evaluation.shares import cut_shares
from clat.report.plots import save_figure
from clat.runtime.jobs.job import Job
from clat.runtime.jobs.order import longest_first

RESULTS = Path("docs/results/benchmarks")
METHODS = ("pgd-at", "trades", "mart", "score-at", "cure", "twins", "autolora", "fast-at")
EPOCHS, STEPS, BATCH, SEEDS = 50, 391, 128, 3
"""Epochs of each half of a row; batches of an epoch; images of a batch; seeds of a row."""
GPUS = (1, 8, 64, 512)
ROUNDS = 20
PASSES = 23
"""Forward passes that a step of PGD-AT costs, a backward pass counted as two."""
IMAGES, FOOLED = 10_000, 60
"""Images of an evaluation; passes of one that is fooled by the first attack."""
WORLDS: dict[str, dict[str, Any]] = {
    "ideal": {},
    "5 % slow": {"slow": 0.05, "speed": 0.7},
    "a failure in 50,000 h": {"mean_life": 50_000.0},
    "a failure in 500 h": {"mean_life": 500.0},
    "slow, a failure in 500 h": {"slow": 0.05, "speed": 0.7, "mean_life": 500.0},
}
"""50,000 hours of a GPU between two interruptions are Llama 3's training: 419 on 16,384 GPUs in 54 days."""


def step_seconds() -> dict[str, dict[str, float]]:
    """Return the seconds of a step on an H100, network -> method -> seconds.

    Returns:
        Of PGD-AT and CLAT as counted on paper; of the others PGD-AT's, by the passes of their steps.
    """
    cases = json.loads((RESULTS / "scaling.json").read_text())["cases"]
    passes = json.loads((RESULTS / "objective_cost.json").read_text())["rows"]
    found = {}
    for case, data in cases.items():
        if not case.endswith("CIFAR-10"):
            continue
        ours = {name: data["objectives"][name]["H100"]["gpu_ms"] / 1000 for name in ("pgd-at", "clat")}
        ratio = {name: passes[name]["equivalents"] / passes["pgd-at"]["equivalents"] for name in METHODS}
        found[case.partition(" /")[0]] = {name: ours["pgd-at"] * ratio[name] for name in METHODS} | {
            "clat": ours["clat"]
        }
    return found


def study_rows() -> list[SimulatedTask]:
    """Return the study's rows, those that others build on before them, as a study lists them.

    Returns:
        Tasks; of a row with CLAT the seconds of its second half, which is all that it trains itself.
    """
    rows = []
    for seed in range(SEEDS):
        for network, seconds in step_seconds().items():
            for method in METHODS:
                half = EPOCHS * STEPS * seconds[method]
                name = f"{network} {method}@{seed}"
                rows.append(SimulatedTask(name=name, seconds=2 * half))
                clat = EPOCHS * STEPS * seconds["clat"]
                rows.append(SimulatedTask(name=f"{name}+clat", seconds=clat, after=name, needs=half))
    return rows


def longest_rows_first(rows: Sequence[SimulatedTask]) -> list[SimulatedTask]:
    """Return rows in the order in which the scheduler starts them.

    Args:
        rows: as a study lists them.

    Returns:
        The same, by `clat.runtime.jobs.order`.
    """
    jobs = [
        Job(
            name=row.name,
            words=lambda: [],
            log=Path(),
            after=(row.after,) if row.after else (),
            cost=row.seconds,
            handover={row.after: row.needs} if row.after else {},
        )
        for row in rows
    ]
    by_name = {row.name: row for row in rows}
    return [by_name[name] for name in longest_first(jobs)]


def share_tasks(workers: int, seconds_a_pass: float) -> list[SimulatedTask]:
    """Return the shares of AutoAttack on a network whose robust images all stand at the end of the set.

    Args:
        workers: for so many it is cut.
        seconds_a_pass: of one image through the network, forwards.

    Returns:
        A task a share.
    """
    cost = torch.full((IMAGES,), float(FOOLED))
    cost[IMAGES // 2 :] = float(survivor_passes(find_protocol("autoattack"), 10))
    shares = cut_shares(IMAGES, workers, IMAGES)
    return [
        SimulatedTask(name=f"share {number}", seconds=float(cost[share].sum()) * seconds_a_pass)
        for number, share in enumerate(shares)
    ]


def measured_start() -> float:
    """Return the CPU seconds after which a command of a run has loaded what it needs.

    Returns:
        The median of three processes.
    """
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import clat.training.run"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(found)


def simulated(tasks: Sequence[SimulatedTask], cluster: SimulatedCluster) -> dict[str, Any]:
    """Return what becomes of tasks, over several draws of slow workers and failures.

    Args:
        tasks: the tasks.
        cluster: what they run on.

    Returns:
        Plain data: hours, the best that is possible, efficiency, failures, tasks given up.
    """
    chance = cluster.slow > 0 or cluster.mean_life > 0
    outcomes = [simulate(tasks, cluster, seed) for seed in range(ROUNDS if chance else 1)]
    hours = sorted(one.seconds / 3600 for one in outcomes)
    work = sum(task.seconds for task in tasks) / 3600
    return {
        "hours": statistics.mean(hours),
        "hours_range": [hours[0], hours[-1]],
        "bound_hours": lower_bound(tasks, cluster) / 3600,
        "efficiency": work / (cluster.workers * statistics.mean(hours)),
        "failures": statistics.mean(one.failures for one in outcomes),
        "given_up": statistics.mean(len(one.given_up) for one in outcomes),
        "idle": statistics.mean(one.idle / (cluster.workers * one.seconds) for one in outcomes),
    }


def measure(start: float) -> dict[str, Any]:
    """Return the whole simulation.

    Args:
        start: seconds that a process takes to start.

    Returns:
        Plain data.
    """
    rows, found = study_rows(), {}
    longest = longest_rows_first(rows)
    a_pass = step_seconds()["WRN-34-10"]["pgd-at"] / (PASSES * BATCH)
    for gpus in GPUS:
        cluster = SimulatedCluster(workers=gpus, start=start)
        worlds = {name: replace(cluster, **changes) for name, changes in WORLDS.items()}
        found[str(gpus)] = {
            "study": {name: simulated(rows, one) for name, one in worlds.items()},
            "longest_first": {name: simulated(longest, one) for name, one in worlds.items()},
            "one_evaluation": {
                name: simulated(share_tasks(gpus, a_pass), replace(one, saved=30.0)) for name, one in worlds.items()
            },
        }
    return {
        "what": "cluster-scaling",
        "rows": len(rows),
        "evaluation_seconds_of_one_gpu": sum(task.seconds for task in share_tasks(1, a_pass)),
        "gpu_hours": sum(task.seconds for task in rows) / 3600,
        "longest_row_hours": max(task.seconds for task in rows) / 3600,
        "start_seconds": start,
        "rounds": ROUNDS,
        "cluster": asdict(SimulatedCluster(workers=1, start=start)),
        "gpus": found,
        "environment": describe_environment("cpu"),
    }


def drawn(data: dict[str, Any]) -> Figure:
    """Return the efficiencies as a figure.

    Args:
        data: as `measure` returns it.

    Returns:
        Two plots, of the study and of one evaluation.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (kind, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("longest_first", f"{data['rows']} rows, longest first"), ("one_evaluation", "AutoAttack, WRN-34-10")),
        strict=True,
    ):
        for world in WORLDS:
            values = [100 * data["gpus"][str(gpus)][kind][world]["efficiency"] for gpus in GPUS]
            axes.plot(GPUS, values, marker="o", label=world)
        axes.set(xscale="log", xticks=GPUS, xticklabels=[str(gpus) for gpus in GPUS], title=title, xlabel="GPUs")
        axes.minorticks_off()
    figure.axes[0].set(ylabel="efficiency in %", ylim=(0, 105))
    figure.axes[0].legend(fontsize=7)
    return figure


def main() -> None:
    """Simulate, print, and write JSON and plot where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=float, help="seconds that a process takes to start (default: measured)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(measured_start() if options.start is None else options.start)
    for gpus, kinds in found["gpus"].items():
        for kind, worlds in kinds.items():
            for world, one in worlds.items():
                print(
                    f"{gpus:>4} GPUs  {kind:15} {world:26} {one['hours']:9.3f} h (bound {one['bound_hours']:.3f})  "
                    f"{one['efficiency']:6.1%}  failures {one['failures']:.2f}  given up {one['given_up']:.2f}"
                )
    if options.out is not None:
        write_json(options.out, found)
        save_figure(drawn(found), options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
