"""What is told about memory."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clat.network.cost import metered


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


class OnGpu(nn.Module):
    """A network that says that it is on a GPU."""

    def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
        return iter([SimpleNamespace(device=torch.device("cuda", 0))])


def test_of_nested_measurements_the_outermost_has_the_peak_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA has one peak, which a reset forgets."""
    peak = [0]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 1))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    network = OnGpu()
    with metered(network) as whole:
        peak[0] = 7
        with metered(network) as part:
            peak[0] = max(peak[0], 3)
    assert (whole.peak_memory_bytes, part.peak_memory_bytes) == (7, 7)
    with metered(network) as later:
        peak[0] = max(peak[0], 2)
    assert later.peak_memory_bytes == 2
