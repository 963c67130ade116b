"""Ctrl-C ends a command within two seconds, whatever the network's code does, and nothing written is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NETWORK = """
import os, pathlib, time
import torch
from own_network import Net


def sleep():
    time.sleep(300)


def compute():
    '''One operation, which Python cannot interrupt.'''
    torch.linalg.matrix_power(torch.eye(2000), 2**40 - 1)


def swallow():
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


class Busy(Net):
    '''Once the file `busy` is there, it works for minutes and says so.'''

    def forward(self, x):
        if os.path.exists("busy") and len(x) > 1:
            pathlib.Path("at_work").touch()
            globals()[pathlib.Path("busy").read_text()]()
        return super().forward(x)
"""

LIMIT = 2.0


def slack() -> float:
    """Return the seconds that a process which loads torch takes from its start to its end, on the machine as it is:
    a busy one ends any process later."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - start


def be_busy(place: Path, work: str) -> None:
    """Have the network work, from one moment to the next: it may look at any time."""
    (place / "soon").write_text(work)
    (place / "soon").rename(place / "busy")


@pytest.fixture
def place(workplace: Path, tmp_path: Path) -> Path:
    for name in ("own_network.py", "tiny.toml"):
        (tmp_path / name).write_text((workplace / name).read_text())
    (tmp_path / "busy_network.py").write_text(NETWORK)
    return tmp_path


def interrupt_at_work(process: Any, place: Path, number: int = signal.SIGINT) -> tuple[str, str]:
    """Send the signal once the network is at work; what the process has said by the end."""
    deadline = time.monotonic() + 120
    while not (place / "at_work").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    limit = LIMIT + slack()
    start = time.monotonic()
    process.send_signal(number)
    said: tuple[str, str] = process.communicate(timeout=240)
    assert time.monotonic() - start < limit
    assert "Traceback" not in said[1]
    return said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("check --model resnet18", "stopped; nothing was written"),
        ("evaluate --model resnet18", "stopped; nothing was written (evaluate keeps its work with --state FILE)"),
        ("evaluate --model resnet18 --state kept", "stopped; go on with the same command"),
        ("study claim --out study", "stopped; go on with the same command"),
        ("train tiny.toml --out new", "stopped; nothing was written"),
        ("report run", "stopped"),
    ],
)
@pytest.mark.parametrize("leaves", [False, True])
def test_a_stopped_command_says_what_is_left(
    clat: Any, monkeypatch: pytest.MonkeyPatch, words: str, says: str, leaves: bool
) -> None:
    def stopped(options: Any) -> int:
        if leaves:
            return 143
        raise KeyboardInterrupt

    monkeypatch.setattr(f"clat.cli.{words.split()[0]}.run", stopped)
    done = clat(*words.split())
    assert (done.code, done.err) == (143 if leaves else 130, f"clat: {says}\n")


def test_a_training_says_itself_how_it_goes_on(clat: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    monkeypatch.setattr("clat.cli.train.run", lambda options: 130)
    assert clat("train", "tiny.toml", "--out", tmp_path).err == ""


@pytest.mark.parametrize(
    ("work", "number", "code"),
    [
        ("sleep", signal.SIGTERM, 143),
        pytest.param("sleep", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("compute", signal.SIGINT, 130, marks=pytest.mark.slow),
        ("swallow", signal.SIGINT, 130),
    ],
)
def test_in_an_evaluation(work: str, number: int, code: int, start: Any, place: Path) -> None:
    be_busy(place, work)
    words = (
        "evaluate",
        "--model",
        "busy_network:Busy",
        "--num-samples",
        8,
        "--protocol",
        "pgd-10",
        "--device",
        "cpu",
    )
    process = start(words, cwd=place)
    _, errors = interrupt_at_work(process, place, number)
    assert process.returncode == code
    assert ("the code at work did not let go" in errors) == (work != "sleep")
    assert "nothing was written (evaluate keeps its work with --state FILE)" in errors


@pytest.mark.parametrize(
    ("work", "number", "code"),
    [
        pytest.param("sleep", signal.SIGTERM, 143, marks=pytest.mark.slow),
        ("compute", signal.SIGINT, 130),
    ],
)
def test_in_a_training_step_and_the_run_goes_on(work: str, number: int, code: int, start: Any, place: Path) -> None:
    """The step is given up, and the run goes on from its last saved state."""
    run = place / "run"
    words = ("train", "tiny.toml", "--out", run, "--model.name", "busy_network:Busy", "--stages.pgd-at.epochs", 8)
    process = start(words, cwd=place)
    while not (run / "state.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    be_busy(place, work)
    said = interrupt_at_work(process, place, number)
    assert process.returncode == code
    assert "clat train --resume" in "".join(said)
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    (place / "busy").unlink()
    resumed = start(["train", "--resume", run], cwd=place)
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == list(range(1, 11))


def test_a_quick_step_is_finished_and_saved(start: Any, place: Path) -> None:
    """Then nothing is lost, and the second signal never comes."""
    run = place / "run"
    process = start(("train", "tiny.toml", "--out", run, "--stages.pgd-at.epochs", 500), cwd=place)
    while not (run / "state.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    before = (run / "state.safetensors").stat().st_mtime_ns
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "clat train --resume" in output
    assert (run / "state.safetensors").stat().st_mtime_ns > before
