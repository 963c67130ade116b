"""Two processes stopped in the middle of an epoch: what each has of its own is there again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from helpers import runs

SCRIPT = '''
import importlib.util, sys
from pathlib import Path
import pytest, torch
import clat
from clat.runtime.engine import EngineConfig
from clat.objectives import Cure, FreeAT

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
sys.modules["kit"] = kit
spec.loader.exec_module(kit)
rank = int(sys.argv[2])


class Own(kit.TinyNet):
    """With a buffer of its own, that follows the images which this process has seen and changes its output."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, 1, 1))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.seen.lerp_(x.detach().mean((0, 2, 3), keepdim=True)[0], 0.5)
            self.count += int(x.sum())
        return super().forward(x - self.seen + 1e-6 * self.count)


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Own()


kit.tiny = net
recipe = kit.recipe(
    stages=(
        kit.pgd_at(2, objective=Cure(steps=1, rate=0.7, revision_bn="stored")),
        kit.pgd_at(1, name="free-at", objective=FreeAT(replays=2)),
        kit.clat(1, batch_norm="update"),
    ),
    engine=EngineConfig(device="cpu", devices=2, precision="32"),
)
clat.train(recipe, "whole", model=net(), data=kit.data(), quiet=True)
for steps in map(int, sys.argv[3:]):
    out = Path(f"halted-{steps}")
    with pytest.MonkeyPatch.context() as patch:
        kit.train_and_stop(patch, recipe, out, after_steps=steps)
    clat.resume(out, model=net(9), data=kit.data(), quiet=True)
    if rank == 0:
        kit.assert_same_run(Path("whole"), out)
'''


@pytest.mark.slow
def test_stopped_in_mid_epoch_and_resumed_they_end_with_the_same_bits(tmp_path):
    """In each of three stages: CURE, whose copy of the network has statistics of its own, Free-AT, CLAT. Networks
    normalise by statistics and by a buffer that follow each process's share of the images."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As torchrun starts them: one pair of processes can then make all the runs.
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    both = [
        subprocess.Popen(
            [sys.executable, "script.py", runs.__file__, str(rank), "2", "7", "10", "15"],
            cwd=tmp_path,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in both:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in both:
            process.kill()
            process.communicate()
