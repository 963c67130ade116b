"""Real processes: signals, kills, and two of them at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clat import cli
from clat.training.status import run_status

LONG = ("--stages.pgd-at.epochs", "10", "--stages.clat.epochs", "10")


@pytest.fixture(scope="module")
def undisturbed(workplace):
    out = workplace / "runs" / "undisturbed"
    assert cli.main(["train", "tiny.toml", "--out", str(out), *LONG]) == 0
    return out


def same_weights(one, other):
    for name in ("stage-1", "best", "last"):
        first, second = (load_file(run / "weights" / f"{name}.safetensors") for run in (one, other))
        assert all(torch.equal(first[key], second[key]) for key in first), name


def epochs(out):
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [record["epoch"] for record in map(json.loads, lines) if record["event"] == "epoch"]


def wait_for_epoch(process, out, epoch):
    """Until the metrics show the epoch: the moment to send a signal."""
    deadline = time.monotonic() + 300
    while len(epochs(out)) < epoch:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_stopped_by_a_signal_and_resumed(start, refused, undisturbed, workplace, capfd, number, code):
    out = workplace / "runs" / f"stopped-{number}"
    process = start(["train", "tiny.toml", "--out", out, *LONG])
    wait_for_epoch(process, out, 2)
    assert "another process is training in" in refused("train", "--resume", out)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert len(epochs(out)) < 20, "the run was over before the signal"
    status = json.loads((out / "run.json").read_text())["status"]
    assert status == ("running" if number == signal.SIGKILL else "interrupted")
    assert run_status(out) == ("died" if number == signal.SIGKILL else "interrupted")
    if number != signal.SIGKILL:
        assert "clat train --resume" in output
    if number == signal.SIGINT:
        resumed = start(["train", "--resume", out])
        output, errors = resumed.communicate(timeout=300)
        assert resumed.returncode == 0, errors
    else:  # in this process: another one costs seconds and shows nothing more
        capfd.readouterr()
        assert cli.main(["train", "--resume", str(out)]) == 0
        assert ("died without a word" in capfd.readouterr().out) == (number == signal.SIGKILL)
    same_weights(out, undisturbed)
    assert epochs(out) == list(range(1, 21))
    assert (out / "report.html").is_file()


RANKS = """
import atexit, os
import torch
from own_network import Net


def make(num_classes):
    net = Net(num_classes)
    atexit.register(lambda: torch.save(net.state_dict(), f"rank-{os.environ.get('LOCAL_RANK')}.pt"))
    return net
"""


@pytest.fixture
def two_processes(start, workplace, tmp_path):
    """A folder with a network that leaves its weights behind when its process ends, and a way to run there."""
    for name in ("own_network.py", "tiny.toml"):
        (tmp_path / name).write_text((workplace / name).read_text())
    (tmp_path / "watched.py").write_text(RANKS)

    def run(*words):
        process = start(
            ["train", "tiny.toml", "--model.name", "watched:make", "--devices", "2", *words], cwd=tmp_path
        )
        try:
            output, errors = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["frozen", "update-selected"])
def test_two_processes_agree_and_move_only_what_is_selected(two_processes, tmp_path, policy):
    done = two_processes("--out", "run", "--stages.clat.batch_norm", policy)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("stage 1/2: pgd-at") == 1
    assert done.stdout.count("wrote") == 1
    out = tmp_path / "run"
    last, first = (load_file(out / "weights" / f"{name}.safetensors") for name in ("last", "stage-1"))
    for rank in (0, 1):
        own = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert all(torch.equal(own[name], last[name]) for name in last), f"rank {rank}"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    selected = {name for line in lines if line["event"] == "selection" for name in line["layers"]}
    expected = {f"{name}.{part}" for name in selected for part in ("weight", "bias")}
    if policy == "update-selected":
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        expected |= {f"{name.replace('conv', 'bn')}.{part}" for name in selected for part in statistics}
    assert {name for name in last if not torch.equal(last[name], first[name])} == expected
    about = json.loads((out / "run.json").read_text())
    assert about["environment"]["processes"] == 2
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_two_processes_conserve_the_same_weights(two_processes, tmp_path):
    """Each has its own images, gradients and attack: did they choose by these alone, their weights would part."""
    cure = '{ name = "cure", steps = 1, percent = 50, rate = 1.0 }'
    done = two_processes("--out", "run", "--stages.pgd-at.objective", cure)
    assert done.returncode == 0, done.stderr
    own = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(own[0][name], own[1][name]) for name in own[0])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kept = [line["companions"]["objective"] for line in lines if line["event"] == "epoch" and line["stage"] == 0]
    assert kept[-1]["revisions"] == kept[-1]["steps"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "average",
    [
        '{ name = "swa", start = 0.25, window = 2, unit = "batches" }',
        '{ name = "ema", batch_norm = "reestimated" }',
    ],
    ids=["swa", "ema"],
)
def test_two_processes_agree_on_treated_weights(two_processes, tmp_path, average):
    """Perturbed alike, averaged alike, the statistics counted on both shares, and stopped at the same point."""
    treatments = f"""[
        {{ name = "interpolation", steps = 2, margin = 1.0, end = "last" }},
        {{ name = "awp", gamma = 0.1 }},
        {average},
    ]"""
    done = two_processes("--out", "run", "--stages.pgd-at.treatments", " ".join(treatments.split()))
    assert done.returncode == 0, done.stderr
    last = load_file(tmp_path / "run" / "weights" / "last.safetensors")
    for rank in (0, 1):
        own = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert all(torch.equal(own[name], last[name]) for name in last), f"rank {rank}"


@pytest.mark.slow
def test_two_processes_refuse_bad_input_in_one_line(two_processes, tmp_path):
    for words, says in (
        (("--out", "run", "--evaluation.protocol", "pgd-21"), "unknown protocol"),
        (("--out", "run", "--batch_size", "31"), "batch_size 31"),
        (("--out", "."), "holds something already"),
    ):
        done = two_processes(*words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert says in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_stops_both_processes_and_the_run_goes_on(start, workplace, tmp_path):
    for name in ("own_network.py", "tiny.toml"):
        (tmp_path / name).write_text((workplace / name).read_text())
    process = start(["train", "tiny.toml", "--out", "run", "--devices", 2, *LONG], cwd=tmp_path)
    wait_for_epoch(process, tmp_path / "run", 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    resumed = start(["train", "--resume", "run"], cwd=tmp_path)
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert epochs(tmp_path / "run") == list(range(1, 21))


LEISURELY = """
import os, time
from own_network import Net


class Leisurely(Net):
    def forward(self, x):
        if os.path.exists("slow") and os.path.exists("run/summary.json"):
            time.sleep(0.2)
        return super().forward(x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the first", "both"])
def test_two_processes_stopped_in_the_final_evaluation_go_on_with_it(start, workplace, tmp_path, whom):
    for name in ("own_network.py", "tiny.toml"):
        (tmp_path / name).write_text((workplace / name).read_text())
    (tmp_path / "leisurely.py").write_text(LEISURELY)
    (tmp_path / "slow").touch()
    words = ("train", "tiny.toml", "--out", "run", "--devices", 2, "--model.name", "leisurely:Leisurely")
    process = start(words, cwd=tmp_path)
    evaluations, deadline = tmp_path / "run" / "evaluations", time.monotonic() + 300
    while len(list(evaluations.glob("stage-1.state.*"))) < 2:  # each process is at its share
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.005)
    if whom == "both":  # as a terminal does
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)  # which is when the other one has left, too
    assert process.returncode == (130 if whom == "both" else 143), errors
    assert "Traceback" not in errors
    assert "clat train --resume run" in output
    assert not list(evaluations.glob("*.json"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    (tmp_path / "slow").unlink()
    resumed = start(["train", "--resume", "run"], cwd=tmp_path)
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert {file.name for file in evaluations.iterdir()} == {"stage-1.json", "best.json", "last.json"}
    assert epochs(tmp_path / "run") == [1, 2, 3, 4]


@pytest.mark.slow
def test_what_is_spread_over_two_processes_survives_a_stop(start, workplace, tmp_path):
    """Free-AT's perturbation, of which each process carries its own part. Its training passes normalise by the
    batch, so that a lost part would show in the weights."""
    (tmp_path / "own_network.py").write_text((workplace / "own_network.py").read_text())
    recipe = (workplace / "tiny.toml").read_text()
    clat_stage = recipe[recipe.index('[[stages]]\nname = "clat"') : recipe.index("[monitor]")]
    recipe = recipe.replace(clat_stage, "").replace("epochs = 2", "epochs = 12")
    recipe = recipe.replace('name = "pgd-at", steps = 2', 'name = "free-at", replays = 2')
    (tmp_path / "free.toml").write_text(recipe + "devices = 2\ncheckpoint_seconds = 0.0\n")

    whole = start(["train", "free.toml", "--out", "whole"], cwd=tmp_path)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    halted = start(["train", "free.toml", "--out", "halted"], cwd=tmp_path)
    wait_for_epoch(halted, tmp_path / "halted", 2)
    os.killpg(halted.pid, signal.SIGINT)
    _, errors = halted.communicate(timeout=300)
    assert halted.returncode == 130, errors
    resumed = start(["train", "--resume", "halted"], cwd=tmp_path)
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    one, other = (load_file(tmp_path / run / "weights" / "last.safetensors") for run in ("whole", "halted"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(start, trained, tmp_path):
    """Also a network that each would draw for itself."""
    words = ["evaluate", "--protocol", "pgd-10", "--eps", "0.1", "--num-samples", "31", "--device", "cpu"]
    known = ["--model", "own_network:Net", "--weights", str(trained / "weights" / "last.safetensors")]
    assert cli.main([*words, *known, "--out", str(tmp_path / "one.json")]) == 0
    for name, which in (("two", known), ("drawn", ["--model", "own_network:Net"])):
        state = ["--state", tmp_path / name]
        process = start([*words, *which, *state, "--devices", "2", "--out", tmp_path / f"{name}.json"])
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert output.count("clean accuracy") == 1
        parts = {path.name for path in tmp_path.glob(f"{name}.2p-?")}
        assert parts == {f"{name}.2p-{number}" for number in range(2)}
    one, two, drawn = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two", "drawn"))
    assert [two[name] for name in ("correct", "robust", "images")] == [
        one[name] for name in ("correct", "robust", "images")
    ]
    assert two["environment"]["processes"] == 2
    keys = [
        json.loads(safe_open(tmp_path / f"drawn.2p-{rank}", "pt").metadata()["key"])["model"] for rank in (0, 1)
    ]
    assert keys[0] == keys[1]
    assert len(drawn["robust"]) == 31


@pytest.mark.slow
def test_two_processes_refuse_an_evaluation_in_one_line(start, trained, tmp_path):
    """Before the others are started, and afterwards."""
    words = ["evaluate", "--model", "own_network:Net", "--num-samples", "9", "--device", "cpu", "--devices", "2"]
    (tmp_path / "state.2p-1").write_text("not a state")
    for more, says in ((["--eps", "8"], "did you mean 8/255"), (["--state", tmp_path / "state"], "not an eval")):
        process = start([*words, *more])
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        lines = [line for line in errors.splitlines() if "clat: error" in line]
        assert len(lines) == 1, errors
        assert says in lines[0]
        assert "Traceback" not in errors + output


FAILS_IN_ONE = """
import os
import torch
from own_network import Net


class Fails(Net):
    def forward(self, x):
        if os.environ.get("LOCAL_RANK", "0") == "WHICH" and x.requires_grad:
            raise RuntimeError("boom")
        return super().forward(x)


class Overflows(Net):
    def forward(self, x):
        logits = super().forward(x)
        late = torch.distributed.is_initialized() and torch.distributed.get_rank() == WHICH
        return logits * float("nan") if late else logits
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_an_evaluation_ends_where_one_process_fails(start, workplace, tmp_path, which):
    """Not after the half hour for which the others would wait."""
    (tmp_path / "own_network.py").write_text((workplace / "own_network.py").read_text())
    (tmp_path / "fails.py").write_text(FAILS_IN_ONE.replace("WHICH", str(which)))
    words = ["evaluate", "--model", "fails:Fails", "--protocol", "pgd-10", "--num-samples", 31, "--device", "cpu"]
    process = start([*words, "--devices", 2], cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "your own code failed, RuntimeError: boom" in errors


@pytest.mark.slow
def test_an_evaluation_says_once_what_the_user_can_mend_in_any_process(start, workplace, tmp_path):
    (tmp_path / "own_network.py").write_text((workplace / "own_network.py").read_text())
    (tmp_path / "fails.py").write_text(FAILS_IN_ONE.replace("WHICH", "1"))
    words = ["evaluate", "--model", "fails:Overflows", "--protocol", "pgd-10", "--num-samples", 31]
    process = start([*words, "--device", "cpu", "--devices", 2], cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [line for line in errors.splitlines() if "clat: error" in line]
    assert "NaN or infinite" in line
    assert "Traceback" not in errors


OWN = """
import sys, torch, clat
torch.seed()
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3),
                            torch.nn.Flatten(), torch.nn.Linear(64, 10))
result = clat.train(clat.read_recipe("tiny.toml", ["--engine.devices", "2"]), "run", model=model)
import os
torch.save(model.state_dict(), f"rank-{os.environ['LOCAL_RANK']}.pt")
"""


@pytest.mark.slow
def test_a_network_that_each_process_draws_for_itself_starts_alike(workplace, tmp_path):
    (tmp_path / "tiny.toml").write_text((workplace / "tiny.toml").read_text())
    (tmp_path / "own.py").write_text(OWN)
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_processes_move_as_one_does(start, workplace, tmp_path):
    """PGD-AT and CLAT with re-selection on the same global batches, up to rounding. BatchNorm is frozen, so that
    the mean over the shares is the gradient of the whole batch, and no random start tells the shares apart."""
    (tmp_path / "same.py").write_text(SAME)
    recipe = (workplace / "tiny.toml").read_text()
    recipe = recipe.replace("own_network:Net", "same:make")
    recipe = recipe.replace('objective = { name = "pgd-at", steps = 2 }', FROZEN)
    recipe = recipe.replace('epochs = 2\nobjective = { name = "clat"', 'epochs = 3\nobjective = { name = "clat"')
    (tmp_path / "tiny.toml").write_text(recipe)
    ends = {}
    for count in (1, 2):
        done = start(["train", "tiny.toml", "--out", f"by-{count}", "--devices", count], cwd=tmp_path)
        _, errors = done.communicate(timeout=300)
        assert done.returncode == 0, errors
        out = tmp_path / f"by-{count}"
        ends[count] = {name: load_file(out / "weights" / f"{name}.safetensors") for name in ("stage-1", "last")}
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        ends[count]["selected"] = [line["layers"] for line in lines if line["event"] == "selection"]
    one, two = ends[1], ends[2]
    assert one["selected"] == two["selected"]
    assert len(one["selected"]) == 3
    moved = 0
    for name, before in one["stage-1"].items():
        torch.testing.assert_close(two["stage-1"][name], before, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(two["last"][name], one["last"][name], rtol=1e-4, atol=1e-6)
        moved += int(not torch.allclose(one["last"][name], before, rtol=1e-3, atol=1e-5))
    assert moved


SAME = """
import torch
from torch import nn
from clat.attacks.ball import Ball

# A start that depends on the image alone: random ones are drawn by each process for its own share.
Ball.random_point = lambda self, generator: self.project(self.x + self.eps * torch.sin(1000 * self.x))


def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""

FROZEN = 'objective = { name = "pgd-at", steps = 2 }\nbatch_norm = "frozen"'
