"""Jobs and a study on a Ray cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STUDY = '''
import io, sys, threading, time
from pathlib import Path
from rich.console import Console
from ray.cluster_utils import Cluster
from clat.runtime.jobs.cluster import RayCluster
from clat.studies.run import run_study
from helpers.studies import QUIET, STUDY, TINY, apart_from_time, tiny_rows

out, rows = Path(sys.argv[1]), tiny_rows(TINY)[:2]
serial = run_study(STUDY, TINY, rows, out / "serial", QUIET)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
place = RayCluster(out / "ray", address=cluster.address)


def kill():
    """As soon as both rows have begun, each on a node of its own."""
    runs = [out / "ray" / "runs" / row.name / "metrics.jsonl" for row in rows]
    while not all(run.exists() and run.read_text() for run in runs):
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)


threading.Thread(target=kill, daemon=True).start()
screen = Console(record=True, file=io.StringIO(), width=300)
table = run_study(STUDY, TINY, rows, out / "ray", screen, place)
text = screen.export_text()
assert "is gone; trying once more" in text, text
assert [row["status"] for row in table["rows"]] == ["finished"] * 2, text
assert apart_from_time(table) == apart_from_time(serial)
assert not list((out / "ray").glob(".*.tmp"))
place.close()
cluster.shutdown()
print("as it should be")
'''

JOBS = '''
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
import clat.runtime.jobs.cluster as module
from clat.core.errors import ClatError
from clat.runtime.jobs import remote
from clat.runtime.jobs.job import Job
from clat.runtime.jobs.schedule import JobsStopped, run_jobs

out = Path(sys.argv[1])


class Sleeper(remote.CommandRunner):
    """Runs a shell's words in place of clat's."""

    def start(self, words, log, folder, environment):
        with open(log, "a") as output:
            self.process = subprocess.Popen(list(words), stdout=output, stderr=subprocess.STDOUT)
        return "a node"


module.CommandRunner = Sleeper
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
place = module.RayCluster(out / "shared", address=cluster.address)


def job(name, line, **more):
    return Job(name=name, words=lambda: ["sh", "-c", line], log=out / f"{name}.log", **more)


def refused(message, job, **settings):
    try:
        run_jobs([job], module.RayCluster(out / "shared", **settings))
    except ClatError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
    assert not job.log.exists(), "before it starts"


some = job("refused", "true")
refused("refused asks for 3 CPUs, but no machine of the cluster has more than 1 CPU", some, cpus=3)
refused("GB of memory, but no machine", some, memory=10**15)
refused("refused asks for 1 GPU, but no machine", job("refused", "true", device="cuda"))
module.__version__ = "0.0.1"
refused("here it is 0.0.1: install one of them", some)
module.__version__ = __import__("clat").__version__
module.looking_around = lambda: lambda folder, token: {"machine": "blind", "sees": False, "clat": None}
refused("blind does not see", some)
module.looking_around = remote.looking_around

begun, go = [out / "a.began", out / "b.began"], out / "go"
line = "echo began >> {0}; [ $(wc -l < {0}) -gt 1 ] || while [ ! -e {1} ]; do sleep 0.1; done"
jobs = [*(job(file.stem, line.format(file, go)) for file in begun)]
jobs.append(job("c", "echo no such file; exit 2", after=("a", "b")))


def kill():
    """When both have begun, each on a node of its own."""
    while not all(file.exists() for file in begun):
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    go.touch()


told = []
threading.Thread(target=kill, daemon=True).start()
failures = run_jobs(jobs, place, changed=lambda one: told.append((one.job.name, one.state)))
assert failures == {"c": "no such file"}, failures
lost = [name for name, state in told if state == "waiting" and name != "c"]
assert len(lost) == 1, told
assert [state for name, state in told if name == lost[0]] == ["running", "waiting", "running", "done"], told
assert sorted(len(file.read_text().splitlines()) for file in begun) == [1, 2]
assert told.index(("c", "running")) > max(told.index((name, "done")) for name in "ab")

waits = job("waits", f"trap 'echo saved; exit 143' TERM; touch {go}.2; while :; do sleep 0.1; done")


def stop():
    while not Path(f"{go}.2").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=stop, daemon=True).start()
try:
    run_jobs([waits], place)
except JobsStopped as stopped:
    assert stopped.number == signal.SIGINT
else:
    raise AssertionError("not stopped")
assert waits.log.read_text() == "saved\\n"
place.close()
cluster.shutdown()
print("as it should be")
'''


@pytest.mark.slow
@pytest.mark.parametrize("script", [JOBS, STUDY], ids=["jobs", "study"])
def test_on_two_nodes_one_of_which_is_killed_all_comes_out_as_it_should(tmp_path, script):
    """Jobs: what cannot run is refused, a lost one goes on elsewhere, a signal stops all. A study: the serial
    table."""
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "300",  # beside other tests a node may take its time
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "as it should be" in done.stdout
