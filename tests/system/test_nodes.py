"""Training over two "machines" of two processes each on this one, as torchrun and SLURM start them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

WORDS = ("tiny.toml", "--batch_size", "32", "--model.name", "own_network:Net")


def environments(launcher):
    """What the four processes are told, as two machines with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(4):
        node, local = divmod(rank, 2)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        if launcher == "torchrun":
            names = {"RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": node, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
            names |= {"TORCHELASTIC_RUN_ID": "x"}
        else:
            names = {"SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 2, "SLURM_PROCID": rank}
            names |= {"SLURM_LOCALID": local, "SLURM_NODEID": node, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "clat"}
        yield {**os.environ, **meeting, **{name: str(value) for name, value in names.items()}}


def four(launcher, folder, *words):
    return [
        subprocess.Popen(
            [sys.executable, "-m", "clat", "train", *map(str, words)],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for environment in environments(launcher)
    ]  # fmt: skip


def ended(processes, seconds=600):
    try:
        return [(*process.communicate(timeout=seconds), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture
def place(workplace, tmp_path):
    """A folder with the tiny recipe, without dropout: of what is drawn, each process draws its own."""
    (tmp_path / "own_network.py").write_text((workplace / "own_network.py").read_text().replace("0.2", "0.0"))
    recipe = (
        (workplace / "tiny.toml")
        .read_text()
        .replace('"pgd-at", steps = 2 }', '"pgd-at", steps = 2, random_start = false }')
    )
    (tmp_path / "tiny.toml").write_text(recipe)
    return tmp_path


@pytest.mark.slow
def test_two_machines_of_two_processes_train_as_one_process_does(place):
    """Up to the order of additions, where nothing normalises by the share of a batch or draws by process:
    gradients, what is selected first, lambda."""
    words = (
        *WORDS,
        "--stages.pgd-at.epochs",
        "1",
        "--stages.clat.epochs",
        "1",
        "--stages.pgd-at.batch_norm",
        "frozen",
    )
    outcomes = ended(four("torchrun", place, *words, "--out", "four"))
    assert [code for _, _, code in outcomes] == [0] * 4, outcomes
    assert sum(out.count("stage 1/2") for out, _, _ in outcomes) == 1, "one speaks for all"
    about = json.loads((place / "four" / "run.json").read_text())
    assert about["environment"]["processes"] == 4
    one = subprocess.run(
        [sys.executable, "-m", "clat", "train", *words, "--out", "one"], cwd=place, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    several, single = (load_file(place / name / "weights" / "stage-1.safetensors") for name in ("four", "one"))
    for name, value in single.items():
        torch.testing.assert_close(several[name], value, atol=1e-4, rtol=1e-3, msg=name)
    records = [
        [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("four", "one")
    ]
    selected = [[r["layers"] for r in some if r["event"] == "selection"] for some in records]
    assert selected[0] == selected[1]
    assert len(selected[0]) == 1
    scalars = [[r["objective_state"] for r in some if r["event"] == "epoch"][-1] for some in records]
    assert scalars[0] == pytest.approx(scalars[1], rel=1e-3)
    losses = [next(r["loss"] for r in some if r["event"] == "epoch") for some in records]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "the loss is that of all shares"
    first = [json.loads((place / name / "summary.json").read_text())["stages"][0] for name in ("four", "one")]
    for passes in ("forwards", "backwards"):
        assert first[0][passes] == first[1][passes], "what all processes did counts"


@pytest.mark.slow
def test_the_failure_of_one_process_ends_all_in_time_with_a_line_that_names_it(place):
    processes = four("slurm", place, *WORDS, "--out", "run", "--stages.pgd-at.epochs", "500")
    metrics, deadline = place / "run" / "metrics.jsonl", time.monotonic() + 900
    try:
        while not metrics.exists() or '"epoch"' not in metrics.read_text():
            assert all(process.poll() is None for process in processes), ended(processes)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[3].send_signal(signal.SIGKILL)
        start = time.monotonic()
        outcomes = ended(processes, seconds=60)
        assert time.monotonic() - start < 10
    finally:
        ended(processes)
    lines = [line for _, errors, _ in outcomes for line in errors.splitlines() if "is gone" in line]
    assert lines == ["clat: error: process 3 of 4 is gone, so all end; go on with: clat train --resume run"]
    assert [code for _, _, code in outcomes] == [1, 1, 1, -9]
    went_on = [sys.executable, "-m", "clat", "train", "--resume", "run"]
    with subprocess.Popen(went_on, cwd=place, stdout=subprocess.PIPE, text=True) as one:
        said = ""
        for line in one.stdout:
            said += line
            if "epoch" in line:
                one.terminate()
        assert "processes 4 (now 1): it goes on, but not to the bits" in said
