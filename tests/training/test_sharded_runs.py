"""Two processes that each hold a part of the network, against one that holds it whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import runs

SCRIPT = """
import os
from dataclasses import replace
from pathlib import Path
import pytest, torch
import clat
from clat.attacks.ball import Ball
from clat.network.sharded import sharded_copy
from clat.network.slices import own_slice
from clat.objectives import Clat, ClatPlus, PgdAT, Trades
from clat.recipe.optimizer import OptimizerConfig, TorchOptimizer
from clat.runtime.engine import EngineConfig
from clat.treatments import EMA
from helpers import runs
from helpers.blocks import net

# A start that the image alone decides, whichever process it is in.
start = lambda ball, generator: ball.project(ball.x + 0.5 * ball.eps * torch.sin(1e3 * ball.x).sign())
Ball.random_point = Ball.nearby_point = start
runs.tiny = lambda: net()
alone = "WORLD_SIZE" not in os.environ
engine = EngineConfig(device="cpu", precision="32", checkpoint_blocks=True, shard=True)
frozen = {"batch_norm": "frozen"}
recipe = runs.recipe(
    stages=(
        runs.pgd_at(1, objective=PgdAT(steps=2), treatments=(EMA(start=0.0),), **frozen),
        runs.pgd_at(1, name="trades", objective=Trades(steps=2), **frozen),
        runs.clat(2, objective=Clat(steps=2), optimizer=TorchOptimizer(name="adamw", clip_norm=0.5), **frozen),
        runs.clat(1, name="plus", objective=ClatPlus(steps=2), **frozen),
    ),
    optimizer=OptimizerConfig(clip_norm=1.0),
    schedule=runs.Schedule(lr=0.01),
    micro_batch=4,
    engine=engine,
)
given = {"data": runs.data(), "quiet": True}
result = clat.train(recipe, "one" if alone else "two", model=net(), **given)
assert not any(hasattr(parameter, "full_tensor") for parameter in result.model.parameters())
assert runs.same(dict(result.model.state_dict()), runs.weights(result.out, "last"))
if not alone:
    rank = torch.distributed.get_rank()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    mine = sum(own_slice(parameter).numel() for parameter in sharded_copy(net(), mesh).parameters())
    every = sum(parameter.numel() for parameter in net().parameters())
    assert mine < 0.7 * every, (mine, every)
    for name, steps, shard in (("again", 2, True), ("later", 10, True), ("whole", 14, False)):
        out = Path(name)
        with pytest.MonkeyPatch.context() as patch:
            runs.train_and_stop(patch, recipe, out, after_steps=steps)
        clat.resume(out, model=net(), shard=shard, **given)
        if rank == 0 and shard:
            runs.assert_same_run(Path("two"), out)
"""


def start(tmp_path, **environment):
    places = os.pathsep.join([str(Path(runs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_they_train_as_one_does_and_go_on_from_any_state(tmp_path):
    """PGD-AT with an average of the weights, TRADES, CLAT and CLAT+: up to the order of additions as one process
    with the whole network, and to the bits after a stop; also gone on with by processes that hold it whole."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    processes = [start(tmp_path, **meeting, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    processes.append(start(tmp_path))
    try:
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    one, two, whole = (tmp_path / name for name in ("one", "two", "whole"))
    assert json.loads((two / "run.json").read_text())["environment"]["processes"] == 2
    for other in (two, whole):
        for name in ("stage-1", "stage-2", "stage-3", "last"):
            expected, found = runs.weights(one, name), runs.weights(other, name)
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                where = f"{other.name} {name} {key}"
                torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=where)
        selected = [[record["layers"] for record in runs.records(out, "selection")] for out in (one, other)]
        assert selected[0] == selected[1]
        scalars = [[record["companions"] for record in runs.records(out, "epoch")] for out in (one, other)]
        for mine, theirs in zip(*scalars, strict=True):
            assert mine.get("objective", {}) == pytest.approx(theirs.get("objective", {}), rel=1e-3)
    began = runs.weights(one, "stage-0")
    moved = max(float((value - began[key]).abs().max()) for key, value in expected.items())
    assert moved > 1e-2, "far more than the tolerance"
