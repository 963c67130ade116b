"""`clat harden` as a user runs it, from a weight file to a page, and what it refuses before anything is written."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import clat as package
from clat.evaluation.masking.report import signs_in_words
from clat.recipe import build_recipe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The weights of an ordinary classifier of digits."""
    recipe = build_recipe(
        {
            "eps": "0.1", "batch_size": 64, "model": {"name": "resnet18", "width": 4},
            "data": {"name": "digits", "heldout": 100, "pad": 1, "flip": False},
            "schedule": {"kind": "one-cycle", "lr": 0.1, "peak": 0.3},
            "monitor": {"num_samples": 8, "steps": 1}, "evaluation": {"weights": "none"},
            "stages": [{"name": "clean", "epochs": 4, "objective": {"name": "standard"}}],
        }
    )  # fmt: skip
    out = tmp_path_factory.mktemp("clean") / "run"
    package.train(recipe, out, quiet=True)
    return out / "weights" / "last.safetensors"


WORDS = ("--model", "resnet18", "--width", "4", "--eps", "0.1", "--num-samples", "30", "--batch-size", "64")


def test_from_a_weight_file_to_a_page(clat, classifier, tmp_path):
    out = tmp_path / "hard"
    done = clat(
        "harden", *WORDS, "--weights", classifier, "--epochs", "3", "--objective", "n-fgsm",
        "--max-clean-drop", "40", "--protocol", "pgd-10", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "robust accuracy changed by" in done.out
    result = json.loads((out / "result.json").read_text())
    before, after = (result[when]["robust_accuracy"]["value"] for when in ("before", "after"))
    assert result["comparison"]["robust"]["difference"]["value"] == pytest.approx(after - before)
    assert len(result["per_class"]) == 10
    assert len(result["promise"]["points"]) == 11
    assert "library_name: clat" in (out / "README.md").read_text()
    page = (out / "report.html").read_text()
    assert re.search(r'<p class="outcome">Hardened for 3 epochs, robust accuracy went from .*McNemar', page)
    found = signs_in_words(json.loads((out / "masking.json").read_text()))
    assert "of gradient masking" in found
    assert found in page
    assert found in (out / "README.md").read_text()
    assert "under `pgd-10`, linf eps 0.1, seed 0" in (out / "README.md").read_text()
    assert "Lost <b>" in page
    assert len(json.loads((out / "gallery.json").read_text())["pictures"]) == 24
    again = package.train(out / "recipe.toml", tmp_path / "again", quiet=True)
    ends = [load_file(run / "weights" / "last.safetensors") for run in (out, tmp_path / "again")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0]), "the recipe repeats the training"
    assert again.summary["cost"]["forwards"] > 0
    network = package.load_model("resnet18", width=4, weights=str(out / "model.safetensors"))
    test = package.load_split("digits", "test").take(30)
    x, y = test.images.float() / 255, test.labels
    with torch.no_grad():
        right = int((network.eval()(x).argmax(1) == y).sum())
    assert right / 30 == result["after"]["clean_accuracy"]["value"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--epochs", "1"), "chance"),  # of random weights
        (("--weights", "TRAINED", "--budget", "0.001s"), "too small for one epoch"),
        (("--weights", "TRAINED", "--epochs", "1", "--eps", "8"), "did you mean"),
        (("--weights", "TRAINED", "--epochs", "1", "--budget", "1m"), "not both"),
        (("--weights", "TRAINED", "--budget", "soon"), "expected a time such as 90s"),
        (("--weights", "TRAINED", "--epochs", "1", "--objective", "pgd-3"), "did you mean"),
        (("--weights", "TRAINED", "--epochs", "1", "--seeed", "3"), "--seeed: a hardening takes fields of"),
        (("--weights", "TRAINED", "--epochs", "1", "--stages.harden.epochs", "3"), "give --epochs"),
        (("--weights", "TRAINED", "--epochs", "1", "--stages.clat.lr", "3"), "unknown stage 'clat'"),
        (("--weights", "TRAINED", "--epochs", "1", "--schedule.lr", "-1"), "schedule"),
        (("--weights", "TRAINED", "--epochs", "1", "--logger", "tensorbord"), "did you mean"),
    ],
)
def test_what_it_refuses_before_anything_is_written(clat, classifier, tmp_path, words, says):
    words = [str(classifier) if word == "TRAINED" else word for word in words]
    done = clat("harden", *WORDS, *words, "--out", tmp_path / "hard")
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "hard").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--epochs", "9", "--max-clean-drop", "50"), "--epochs, --max-clean-drop"),
        (("--data", "cifar10"), "--data"),
        (("--plan",), "--plan"),
        (("--schedule.lr", "0.1"), "--schedule.lr"),
    ],
)
def test_what_goes_on_takes_no_other_settings(clat, tmp_path, words, named):
    done = clat("harden", "--resume", tmp_path, *words)
    assert done.code == 2
    assert f"give no {named} beside it" in done.err


def test_a_stray_word_is_named(clat):
    assert "unexpected argument 'help' (see clat harden --help)" in clat("harden", "help").err


def test_a_plan_writes_nothing(clat, classifier, tmp_path):
    done = clat("harden", *WORDS, "--weights", classifier, "--budget", "5m", "--plan")
    assert done.code == 0
    assert re.search(r"trains in (bfloat16, which|float32, as) this device", done.out)
    assert "are measured under cr on 30 of 500 test images, as asked for" in done.out
    assert re.search(
        r"will take \d min \d\d s, until about .*\d\d:\d\d", done.out.replace("\N{NO-BREAK SPACE}", " ")
    )
