"""Who computes together: as the recipe says, or as a launcher has started the processes."""

from __future__ import annotations

import pytest

from clat.core.errors import ClatError
from clat.runtime.engine import EngineConfig, is_first_process
from clat.runtime.layout import ProcessLayout, find_layout

LAUNCHERS = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")
MEETING = ("SLURM_JOB_NAME", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in (*LAUNCHERS, *MEETING):
        monkeypatch.delenv(name, raising=False)


def found(monkeypatch, config=None, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return find_layout(config or EngineConfig())


def test_the_recipe_says_where_no_launcher_does(monkeypatch):
    assert found(monkeypatch) == ProcessLayout(nodes=1, devices=1)
    assert found(monkeypatch, EngineConfig(devices=3)).world == 3
    meeting = {"MASTER_ADDR": "a", "MASTER_PORT": 1, "NODE_RANK": 1}
    assert found(monkeypatch, EngineConfig(devices=3, nodes=2), **meeting).world == 6
    assert not is_first_process(), "of another machine, before it has started its others"


def test_torchrun_and_slurm_know_better(monkeypatch):
    run = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": 8}
    assert found(monkeypatch, **run, LOCAL_WORLD_SIZE=4) == ProcessLayout(nodes=2, devices=4)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert found(monkeypatch, SLURM_NTASKS=6, SLURM_NTASKS_PER_NODE=2) == ProcessLayout(nodes=3, devices=2)
    assert found(monkeypatch, SLURM_JOB_NAME="bash").world == 1, "an allocation in which one types"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": 5, "LOCAL_WORLD_SIZE": 2},
            "torchrun started 5 processes, 2 on",
        ),
        ({"SLURM_NTASKS": 4}, "say --ntasks-per-node"),
    ],
)
def test_what_a_launcher_started_unevenly_is_refused(monkeypatch, environment, says):
    with pytest.raises(ClatError, match=says):
        found(monkeypatch, **environment)


def test_machines_that_nobody_lets_meet_are_refused(monkeypatch):
    with pytest.raises(ClatError, match=r"engine.nodes is 2: start clat on every machine with torchrun or srun"):
        found(monkeypatch, EngineConfig(nodes=2))
    with pytest.raises(ClatError, match=r"engine.nodes is 0"):
        EngineConfig(nodes=0)
