"""What is told about memory."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts per process itself")
def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    child = "import torch; from clat.network.cost import _peak_memory; print(_peak_memory(torch.device('cpu')))"
    parent = f"""if True:
        import subprocess, sys
        held = bytearray(1_500_000_000)
        held[::4096] = b'x' * len(held[::4096])
        subprocess.run([sys.executable, "-c", {child!r}], check=True)
    """
    done = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True)
    assert 50_000_000 < int(done.stdout) < 1_000_000_000
