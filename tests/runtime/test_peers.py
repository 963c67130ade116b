"""Processes that end together: three real ones without a network to train, of which one leaves in some way."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, sys, time
import torch.distributed as dist
from clat.runtime.peers import ending_together
rank, how = int(sys.argv[1]), sys.argv[2]
store = dist.TCPStore("127.0.0.1", int(sys.argv[3]), 3, rank == 0)
dist.distributed_c10d._get_default_store = lambda: store
with ending_together(rank, 3, "the same command"):
    store.set(f"there-{rank}", "1")
    store.wait([f"there-{other}" for other in range(3)])
    if how == "peace":
        time.sleep(0.3 * rank)
    elif rank == int(how[-1]):
        if how.startswith("killed"):
            os.kill(os.getpid(), 9)
        raise ValueError("its own fault")
    else:
        time.sleep(30)
print("ended well")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "named"), [("killed-2", 2), ("raised-1", 1), ("raised-0", 0), ("killed-0", 0), ("peace", None)]
)
def test_they_end_together_and_one_line_names_the_one_that_is_gone(how, named, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "script.py").write_text(SCRIPT)
    begun = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(rank), how, port],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    gone = begun[named or 0]
    gone.wait(300)
    start = time.monotonic()
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in begun]
    if named is None:
        assert [code for _, _, code in outcomes] == [0, 0, 0], outcomes
        return
    assert time.monotonic() - start < 10
    lines = [line for _, errors, _ in outcomes for line in errors.splitlines() if "is gone" in line]
    why = "" if how.startswith("killed") else " (ValueError: its own fault)"
    assert lines == [f"clat: error: process {named} of 3 is gone{why}, so all end; go on with: the same command"]
    assert all(code == 1 for process, (_, _, code) in zip(begun, outcomes, strict=True) if process is not gone)
    assert "its own fault" in outcomes[named][1] or how.startswith("killed")
