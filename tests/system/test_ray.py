"""A study on a Ray cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = '''
import io, os, sys, threading, time
from pathlib import Path
from rich.console import Console
import ray
from ray.cluster_utils import Cluster
from clat.core.errors import ClatError
from clat.runtime.jobs.cluster import RayCluster
from clat.runtime.jobs import remote
from clat.studies.row import Study
from clat.studies.run import run_study
from clat.studies.tables.baselines import pair
from helpers.studies import QUIET, TINY, apart_from_time

out = Path(sys.argv[1])


def rows(scale, folder=None):
    """Two that need not wait for one another, and one that takes over a stage of the first."""
    first = pair(scale, "pgd-at", {"name": "pgd-at", "steps": 1})
    return [first[0], pair(scale, "trades", {"name": "trades", "steps": 1})[0], first[1]]


study = Study("two-nodes", "Three rows", rows, (TINY,))
serial = run_study(study, TINY, rows(TINY), out / "serial", QUIET)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
place = RayCluster(out / "ray", address=cluster.address)


def refused(message, **changes):
    try:
        RayCluster(out / "never", **changes).check(jobs)
    except ClatError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)


from clat.studies.beside import row_job
jobs = [row_job(row, {}, out / "recipe.toml", out) for row in rows(TINY)]
refused("pgd-at asks for 3 CPUs, but no machine of the cluster has more than 1 CPUs", cpus=3)
refused("GB of memory, but no machine", memory=10**15)
import clat.runtime.jobs.cluster as module
module.__version__ = "0.0.1"
refused("here it is 0.0.1: install one of them")
module.__version__ = __import__("clat").__version__
module.looking_around = lambda: lambda folder, token: {"machine": "blind", "sees": False, "clat": None}
refused("blind does not see")
module.looking_around = remote.looking_around


def kill():
    runs = [out / "ray" / "runs" / name / "metrics.jsonl" for name in ("pgd-at", "trades")]
    while not all(run.exists() and run.read_text() for run in runs):
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)


threading.Thread(target=kill, daemon=True).start()
screen = Console(record=True, file=io.StringIO(), width=300)
table = run_study(study, TINY, rows(TINY), out / "ray", screen, place)
text = screen.export_text()
assert "is gone; trying once more" in text, text
assert [row["status"] for row in table["rows"]] == ["finished"] * 3, text
assert apart_from_time(table) == apart_from_time(serial)
assert not list((out / "ray").glob(".*.tmp"))
place.close()
cluster.shutdown()
print("the same table")
'''


@pytest.mark.slow
def test_a_study_on_two_nodes_one_of_which_is_killed_gives_the_serial_table(tmp_path):
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "300",  # beside other tests a node may take its time
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "the same table" in done.stdout
