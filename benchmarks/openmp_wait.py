"""What the threads of one operation lose to other work on the machine: `python -m benchmarks.openmp_wait`.

torch's threads meet at the end of every operation. Where another process has one of the cores, the first to arrive
wait for one that does not run, and libgomp lets them spin for milliseconds before they sleep. Passes of a narrow
ResNet-18, forward and back to the images, on all cores: by libgomp's own setting and by clat's, alone and beside a
process that computes, and on one thread; in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from clat.core.environment import describe_environment
from clat.core.openmp import SPINS

WORK = """
import sys, time, torch
from torch.nn.functional import cross_entropy
import clat
torch.manual_seed(0)
width, pixels, seconds = (int(word) for word in sys.argv[1:])
net = clat.load_model("resnet18", width=width).to(memory_format=torch.channels_last)
x = torch.rand(64, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
y = torch.randint(10, (64,))
def step():
    images = x.clone().requires_grad_(True)
    cross_entropy(net(images), y).backward()
step()
steps, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    step()
    steps += 1
print(steps / (time.perf_counter() - start))
"""
BUSY = "while True: pass"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--width", type=int, default=8)
    options.add_argument("--pixels", type=int, default=8)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    cores = len(os.sched_getaffinity(0))
    settings = {
        "libgomp's": {"OMP_NUM_THREADS": str(cores)},
        "clat's": {"OMP_NUM_THREADS": str(cores), "GOMP_SPINCOUNT": SPINS},
        "one thread": {"OMP_NUM_THREADS": "1"},
    }
    found: dict[str, list[float]] = {}
    for _ in range(chosen.rounds):
        for beside in ("alone", "beside another process"):
            busy = (
                None
                if beside == "alone"
                else subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
            )
            try:
                for name, setting in settings.items():
                    found.setdefault(f"{name}, {beside}", []).append(steps_a_second(setting, chosen))
            finally:
                if busy is not None:
                    busy.kill()
                    busy.wait()
    result = {
        "benchmark": "openmp_wait",
        **vars(chosen),
        "cores": cores,
        "steps_a_second": {name: median(values) for name, values in found.items()},
        "environment": describe_environment(),
    }
    print(json.dumps(result, indent=2))


def steps_a_second(setting: dict[str, str], chosen: argparse.Namespace) -> float:
    """Return how fast passes are in a process of their own.

    Args:
        setting: environment variables.
        chosen: width, pixels and seconds.

    Returns:
        Steps a second.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-c", WORK, *(str(one) for one in (chosen.width, chosen.pixels, chosen.seconds))]
    done = subprocess.run(words, env=kept | setting, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
