"""Commands on a tiny network: in this process where possible, as a process where a process is meant."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clat import cli

MODULE = '''
"""A network of the user's own."""
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.dropout(x.mean((2, 3))))
'''

RECIPE = """
name = "tiny"
eps = "0.1"
batch_size = 32

[model]
name = "own_network:Net"

[data]
name = "digits"
train_size = 128
heldout = 32
pad = 1
flip = false

[[stages]]
name = "pgd-at"
epochs = 2
objective = { name = "pgd-at", steps = 2 }

[[stages]]
name = "clat"
epochs = 2
objective = { name = "clat", steps = 2 }
selection = { k = 1, every = 1, num_samples = 16, steps = 2 }

[monitor]
steps = 2
num_samples = 16

[evaluation]
protocol = "pgd-10"
num_samples = 20

[engine]
device = "cpu"
precision = "32"
"""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of every command: it holds own_network.py and tiny.toml."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "own_network.py").write_text(MODULE)
    (folder / "tiny.toml").write_text(RECIPE)
    yield folder
    sys.modules.pop("own_network", None)


@pytest.fixture(scope="module", autouse=True)
def _inside(workplace: Path) -> Iterator[None]:
    """Work there, and be back for whatever tests follow: with several processes, any may."""
    with contextlib.chdir(workplace):
        yield


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def clat(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `clat ...` in this process."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(clat: Callable[..., Outcome]) -> Callable[..., str]:
    """Runs a command that must be refused with one line and exit code 2; gives the line."""

    def run(*words: object) -> str:
        outcome = clat(*words)
        assert outcome.code == 2, outcome
        assert outcome.err.startswith("clat: error: "), outcome.err
        assert outcome.err.count("\n") == 1, outcome.err
        assert "Traceback" not in outcome.out + outcome.err
        return outcome.err

    return run


@pytest.fixture
def start(workplace: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `clat ...` as a process of its own, in a session of its own."""

    def run(words: Sequence[object], cwd: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "clat", *map(str, words)],
            cwd=cwd or workplace,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell that started the tests in the background has had Ctrl-C ignored, which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


@pytest.fixture(scope="session")
def trained(workplace: Path) -> Path:
    """The folder of a run that went through to its page."""
    out = workplace / "runs" / "trained"
    with contextlib.chdir(workplace):
        assert cli.main(["train", "tiny.toml", "--out", str(out)]) == 0
    return out
