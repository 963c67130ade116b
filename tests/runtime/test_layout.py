"""Who computes together: as the recipe says, or as a launcher has started the processes."""

from __future__ import annotations

import pytest

from clat.core.errors import ClatError
from clat.runtime.engine import Engine, EngineConfig, is_first_process
from clat.runtime.layout import ProcessLayout, find_layout, without_launcher

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
    assert found(monkeypatch, **run, LOCAL_WORLD_SIZE=4) == ProcessLayout(nodes=2, devices=4, started=True)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    slurm = found(monkeypatch, SLURM_NTASKS=6, SLURM_NTASKS_PER_NODE=2)
    assert slurm == ProcessLayout(nodes=3, devices=2, started=True)
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


def test_in_a_slurm_job_of_one_task_clat_starts_the_processes_itself(monkeypatch):
    config = EngineConfig(device="cpu", devices=2)
    job = {"SLURM_JOB_NAME": "train", "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0}
    assert not found(monkeypatch, config, SLURM_NTASKS=1, **job).started
    engine = Engine(config)
    assert engine.world == 2
    assert not engine.fabric.strategy.cluster_environment.creates_processes_externally


def test_a_command_of_its_own_is_none_of_the_processes_of_a_launcher():
    environment = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "SLURM_TMPDIR": "/scratch", "GROUP_NAME": "mine"}
    started = {"SLURM_NTASKS": "4", "RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}
    assert without_launcher({**environment, **started}) == environment


def test_machines_that_nobody_lets_meet_are_refused(monkeypatch):
    with pytest.raises(ClatError, match=r"engine.nodes is 2: start clat on every machine with torchrun or srun"):
        found(monkeypatch, EngineConfig(nodes=2))
    with pytest.raises(ClatError, match=r"engine.nodes is 0"):
        EngineConfig(nodes=0)


def test_a_launcher_that_shows_each_process_one_gpu_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ClatError, match=r"engine.devices is 2, and torch sees 1 GPU$"):
        Engine(EngineConfig(devices=2))
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    with pytest.raises(ClatError, match=r"2 processes .* each sees 1 GPU: let .*srun --gpus-per-node"):
        Engine(EngineConfig())
