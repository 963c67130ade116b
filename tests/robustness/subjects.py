"""What is killed: a training run, a study and an evaluation, each of seconds, and when two of them are alike."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers import runs
from tests.robustness.process import ForkedRow

from clat import studies
from clat.evaluation import state
from clat.recipe.source import read_source
from clat.studies import run as study_run
from clat.studies.row import Row, Scale, Study, make_recipe

NETWORK = '''
"""A network of the user's own."""
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, width=8):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(18 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.dropout(x.flatten(1)))
'''

RECIPE = """
name = "robustness"
eps = "0.05"
batch_size = 64

[model]
name = "killed_network:Net"

[data]
name = "digits"
train_size = 256
heldout = 32
pad = 1
flip = false

[[stages]]
name = "pgd-at"
epochs = 4
objective = { name = "pgd-at", steps = 3 }

[[stages]]
name = "clat"
epochs = 3
objective = { name = "clat", steps = 3 }
selection = { k = 1, every = 2, num_samples = 16, steps = 2 }

[monitor]
steps = 2
num_samples = 32

[evaluation]
protocol = "pgd-10"
num_samples = 40

[engine]
device = "cpu"
precision = "32"
checkpoint_seconds = 0.2
"""

PROTOCOL = """
name = "killed"
attacks = [
    { attack = "apgd", loss = "ce", steps = 10 },
    { attack = "apgd", loss = "dlr-targeted", targets = 3, steps = 10 },
    { attack = "fab", steps = 10, targets = 3 },
    { attack = "square", steps = 200 },
]
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A command that is killed. `start`, `again`: its words in a folder, and those that go on there, None where
    there is nothing left to do; `differs`: what differs between two folders of finished ones, None if nothing
    does; `before`: called first in its process."""

    name: str
    start: Callable[[Path], Sequence[str]]
    again: Callable[[Path], Sequence[str] | None]
    differs: Callable[[Path, Path], str | None]
    before: Callable[[], None] | None = None


def prepare(place: Path) -> None:
    """Write the network and the recipe into the folder in which all commands run."""
    (place / "killed_network.py").write_text(NETWORK)
    (place / "protocol.toml").write_text(PROTOCOL)
    (place / "killed.toml").write_text(RECIPE)


# Training


def _train(folder: Path) -> list[str]:
    return ["train", "killed.toml", "--out", str(folder / "run")]


def _train_again(folder: Path) -> list[str]:
    run = folder / "run"
    return ["train", "--resume", str(run)] if (run / "recipe.toml").exists() else _train(folder)


def run_differs(one: Path, other: Path) -> str | None:
    """Return in what two runs differ: a number that is no time, a weight, or the files that there are."""
    try:
        runs.assert_same_run(one, other)
        names = [{str(f.relative_to(run)) for f in run.rglob("*") if f.is_file()} for run in (one, other)]
        differing = {name for name in names[0] ^ names[1] if not name.startswith("tensorboard/")}
        assert not differing, f"files: {sorted(differing)}"
    except AssertionError as error:
        return str(error).partition("\n")[0] or "the runs differ"
    return None


TRAIN = Subject(
    name="train",
    start=_train,
    again=_train_again,
    differs=lambda one, other: run_differs(one / "run", other / "run"),
)

# Evaluation


def _save_always() -> None:
    """Keep the standing after each attack on each batch, instead of every half a minute."""
    state.StateFile.__init__.__defaults__ = (None, 0.0)


def evaluation(weights: Path) -> Subject:
    """Return the evaluation of these weights, which keeps its standing in a file."""

    def start(folder: Path) -> list[str]:
        files = ["--weights", str(weights), "--state", str(folder / "state"), "--out", str(folder / "result.json")]
        measured = ["--model", "killed_network:Net", "--protocol", "protocol.toml", "--num-samples", "100"]
        return ["evaluate", *measured, "--eps", "0.05", "--batch-size", "25", "--device", "cpu", *files]

    return Subject(
        name="evaluate",
        start=start,
        again=lambda folder: None if (folder / "result.json").exists() else start(folder),
        differs=_result_differs,
        before=_save_always,
    )


def _result_differs(one: Path, other: Path) -> str | None:
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for result in results:  # the one note that has to differ: of the cost
        result["notes"] = [note for note in result["notes"] if not note.startswith("went on from a state file")]
    names = results[0].keys() | results[1].keys()
    differing = [name for name in sorted(names - {"cost"}) if results[0].get(name) != results[1].get(name)]
    return f"results differ in {', '.join(differing)}" if differing else None


# Study


def _rows(scale: Scale, out: Path) -> Sequence[Row]:
    whole = read_source("killed.toml")
    first, second = whole["stages"]
    more = first | {"name": "more", "epochs": 3}
    return [
        Row("pgd-at", make_recipe(scale, "pgd-at", [first, more])),
        Row("clat", make_recipe(scale, "clat", [first, second]), reuse="pgd-at"),
    ]


def _install_study() -> None:
    settings = {name: value for name, value in read_source("killed.toml").items() if name != "stages"}
    scale = Scale("small", 4, 3, settings, "A study to be killed.")
    studies.STUDIES["killed"] = Study("killed", "Killed", _rows, (scale,))
    names = {"STDOUT": subprocess.STDOUT, "TimeoutExpired": subprocess.TimeoutExpired}
    study_run.subprocess = SimpleNamespace(Popen=ForkedRow, **names)


def _study(folder: Path) -> list[str]:
    return ["study", "killed", "--out", str(folder / "study")]


def _study_differs(one: Path, other: Path) -> str | None:
    for row in ("pgd-at", "clat"):
        found = run_differs(one / "study" / "runs" / row, other / "study" / "runs" / row)
        if found is not None:
            return f"row {row}: {found}"
    tables = [_without_times(json.loads((folder / "study" / "table.json").read_text())) for folder in (one, other)]
    return None if tables[0] == tables[1] else "the tables differ"


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = {"seconds", "stages", "peak_memory_bytes", "forwards", "backwards"}
        return {key: _without_times(one) for key, one in value.items() if key not in hidden}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


STUDY = Subject(name="study", start=_study, again=_study, differs=_study_differs, before=_install_study)
