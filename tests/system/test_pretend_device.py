"""Commands on a device of its own, where no tensor may have stayed on the CPU: what only a GPU would show else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("ninja") and shutil.which("c++")), reason="there is no compiler, or no ninja"
    ),
]

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """Return a function that runs a command on the device, and its folder."""
    place = tmp_path_factory.mktemp("device")

    def run(*words: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "helpers.pretend_device", str(place / "built"), *map(str, words)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run, place


@pytest.fixture(scope="module")
def hardened(device):
    """Return the folder of `clat demo`: training, measuring, masking, pictures and the card."""
    run, place = device
    run("demo", "--epochs", 2, "--out", "demo")
    return place / "demo" / "hardened"


def test_the_demo_says_where_it_was_measured(hardened):
    card = (hardened / "README.md").read_text()
    assert "on pretend (" in card
    assert json.loads((hardened / "run.json").read_text())["environment"]["device"].startswith("pretend (")


def test_a_recipe_of_two_stages_trains(device):
    run, place = device
    short = ["--data.train_size", 200, "--stages.pgd-at.epochs", 1, "--stages.clat.epochs", 1]
    run("train", "demo", "--out", "run", *short)
    assert len(json.loads((place / "run" / "summary.json").read_text())["stages"]) == 2


COMMANDS = {
    "evaluate": "--protocol pgd-20 --eps 0.1",
    "autoattack": "--protocol autoattack --eps 0.1",
    "l2": "--protocol autoattack --norm l2 --eps 1 --gallery 2",
    "l1": "--protocol apgd --norm l1 --eps 4",
    "fast": "--protocol fast --eps 0.1",
    "stadv": "--protocol stadv",
    "pixle": "--protocol pixle",
    "check": "--eps 0.1",
    "curve": "--eps 0.05,0.1 --plot curve.png",
    "criticality": "--compare --eps 0.1 --epochs 2",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_measure(device, hardened, name):
    run, _ = device
    command = name if name in ("check", "curve", "criticality") else "evaluate"
    network = ["--model", "resnet18", "--width", 8, "--weights", hardened / "model.safetensors"]
    run(command, *network, "--num-samples", 8, *COMMANDS[name].split(), "--out", f"{name}.json")


def test_steps_of_every_kind(device):
    run, _ = device
    objectives = "pgd-at trades clat clat-fast clat-plus mart cure fat gat grad-align n-fgsm fast-at score-at"
    words = f"bench --model resnet18 --width 4 --layers 11 --batch-size 8 --rounds 1 --objectives {objectives}"
    run(*words.split())


@pytest.mark.parametrize("out", ["folder", "net.onnx", "net.pt2"])
def test_what_is_exported(device, hardened, out):
    run, _ = device
    network = ["--model", "resnet18", "--width", 8, "--weights", hardened / "model.safetensors"]
    run("export", *network, "--data", "digits", "--out", out)
