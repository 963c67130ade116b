"""The commands say which weights of a file they took, take others by their key, and record it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import clat as package

MODEL = ("--model", "own_network:Net")
QUICK = ("--num-samples", 4, "--protocol", "fgsm", "--eps", "0.1")


@pytest.fixture
def both(workplace, tmp_path):
    """A file with raw and averaged weights, of 4 and of 6 channels, so that they cannot be confused."""
    networks = [package.load_model("own_network:Net", width=width).state_dict() for width in (4, 6)]
    torch.save(dict(zip(("model", "ema"), networks, strict=True)), tmp_path / "b.pt")
    return tmp_path / "b.pt"


def test_evaluate_says_and_records_what_it_took(clat, both, tmp_path):
    done = clat("evaluate", *MODEL, "--weights", both, *QUICK, "--out", tmp_path / "raw.json")
    assert done.code == 0
    assert done.out.count("note: weights") == 1
    assert "took 'model'; the file also holds 'ema'" in done.out
    result = json.loads((tmp_path / "raw.json").read_text())
    assert result["weights_key"] is None
    assert "took 'model'" in result["notes"][0]


def test_evaluate_takes_the_key(clat, both, tmp_path):
    words = ("evaluate", *MODEL, "--width", 6, "--weights", both, "--weights-key", "ema", *QUICK)
    done = clat(*words, "--out", tmp_path / "ema.json")
    assert done.code == 0
    assert "note:" not in done.out
    assert json.loads((tmp_path / "ema.json").read_text())["weights_key"] == "ema"


def test_other_commands_take_the_key(clat, both):
    key = ("--weights", both, "--weights-key", "ema", "--width", 6)
    assert clat("criticality", *MODEL, *key, "--num-samples", 4, "--steps", 1).code == 0
    assert clat("curve", *MODEL, *key, "--num-samples", 4, "--eps", "0,0.1", "--protocol", "fgsm").code == 0
    network = ("own_network:Net", f"weights={both}", "weights_key=ema", "width=6")
    words = ("--network", "a", *network, "--network", "b", *network, "--num-samples", 4, "--attack", "fgsm")
    assert clat("transfer", *words).code == 0


def test_a_recipe_takes_the_key(clat, both, tmp_path):
    words = ("--model.weights", both, "--model.weights_key", "ema", "--model.width", 6)
    out = tmp_path / "run"
    assert (
        clat(
            "train", "tiny.toml", "--out", out, *words, "--stages.pgd_at.epochs", 1, "--stages.clat.epochs", 1
        ).code
        == 0
    )
    start = load_file(out / "weights" / "stage-0.safetensors")
    assert torch.equal(start["conv1.weight"], torch.load(both)["ema"]["conv1.weight"])
    assert json.loads((out / "run.json").read_text())["notes"] == []


def test_a_run_records_what_it_took(clat, both, tmp_path):
    words = ("--model.weights", both, "--stages.pgd_at.epochs", 1, "--stages.clat.epochs", 1)
    done = clat("train", "tiny.toml", "--out", tmp_path / "run", *words)
    assert done.code == 0
    assert done.out.count("took 'model'") == 1
    assert "took 'model'" in json.loads((tmp_path / "run" / "run.json").read_text())["notes"][0]


def test_keys_that_make_no_sense(refused, both, tmp_path):
    assert "did you mean 'ema'" in refused("evaluate", *MODEL, "--weights", both, "--weights-key", "emma")
    assert "belongs to a weight file" in refused("evaluate", *MODEL, "--weights-key", "ema")
    out = tmp_path / "run"
    assert "belongs to a weight file" in refused("train", "tiny.toml", "--out", out, "--model.weights_key", "ema")
    assert "did you mean" in refused(
        "train", "tiny.toml", "--out", out, "--model.weights", both, "--model.weights_key", "emma"
    )
    assert not out.exists()
