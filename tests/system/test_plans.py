"""`clat evaluate` with a plan: what it prints and writes, and what it refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clat import cli
from clat.cli import evaluation_setup
from clat.core.notices import notice
from clat.evaluation import AttackSpec, Protocol

WORDS = ["evaluate", "--model", "means_network:network", "--device", "cpu", "--eps", "0.01"]

NETWORK = """
import torch
from torch import nn
from clat.data import load_split

def network():
    part = load_split("digits", "train")
    x, y = part.images.float() / 255, part.labels
    means = torch.stack([x[y == digit].mean(0) for digit in range(10)]).flatten(1)
    linear = nn.Linear(means.shape[1], 10)
    linear.weight.data.copy_(means)
    linear.bias.data.copy_(-means.square().sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear)
"""
"""The nearest of the digits' means, as a linear network: three quarters are right."""

SHORT = Protocol(
    name="short",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=2),
        AttackSpec(attack="apgd", loss="dlr-targeted", steps=2, targets=1),
        AttackSpec(attack="fab", steps=2, targets=1),
        AttackSpec(attack="square", steps=4),
    ),
)


@pytest.fixture
def modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "means_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, modules: Path) -> Any:
    """run(*words) -> exit code, what was printed with single spaces, the result file's data or None."""

    def clat(*words: str) -> tuple[int, str, Any]:
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        code = cli.main([*WORDS, *words, "--out", str(out)])
        printed = capsys.readouterr()
        data = json.loads(out.read_text()) if out.exists() else None
        return code, " ".join((printed.out + printed.err).split()), data

    return clat


def test_bounded_by_a_sample(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("clat.evaluation.sampled.FULL", SHORT)
    state = ["--state", str(tmp_path / "state"), "--num-samples", "30"]
    code, said, data = run("--protocol", "autoattack-sampled", "--screen", "apgd", "--sample", "2", *state)
    assert code == 0
    assert f"screen apgd leaves {data['left_by_screen']} of 30 images" in said
    assert f"AutoAttack fools {data['fooled_in_sample']} of {data['sample']} of these, drawn at random" in said
    assert "robust accuracy at least" in said
    assert "full AutoAttack would cost about" in said
    assert data["what"] == "sampled-evaluation"
    code, said, data = run("--protocol", "autoattack-sampled", "--target-width", "100", *state[2:])
    assert code == 0
    assert data["protocol"]["screen"] == "cr"
    assert "note: cr is not AutoAttack" in said


def test_fast_looks_for_signs(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clat.evaluation.fast.SIGN_IMAGES", 12)
    code, said, data = run("--protocol", "fast", "--num-samples", "30")
    assert code == 0
    assert "cr (not AutoAttack), linf eps 0.01" in said
    assert "Signs of gradient masking, linf eps 0.01, n = 12" in said
    assert data["what"] == "evaluation"
    assert data["plan"] == "fast"
    assert data["protocol"]["name"] == "cr"
    assert data["signs"]["what"] == "check"
    assert ("warning: signs of gradient masking" in said) == data["signs"]["suspicious"] == bool(data["warning"])


def test_verdicts_stay_where_signs_cannot_be_looked_for(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The only image that is looked at is one that the network gets wrong."""
    _, _, data = run("--protocol", "fgsm", "--num-samples", "40")
    wrong, right = data["correct"].index("0"), data["correct"].index("1")
    monkeypatch.setattr("clat.evaluation.fast.SIGN_IMAGES", 1)
    (tmp_path / "ids").write_text(f"{wrong} {right}")
    code, said, data = run("--protocol", "fast", "--ids", str(tmp_path / "ids"))
    assert code == 2
    assert data["correct"] == "01"
    assert "clat: error: cr's verdicts stand, but the signs of masking could not be looked for: " in said


def test_within_a_budget(run: Any) -> None:
    code, said, data = run("--budget", "20s", "--batch-size", "20")
    assert code == 0
    assert "budget 20 s:" in said
    assert "ms a pass" in said
    plan = data["budget"]
    assert plan["budget"] == 20
    assert 20 <= plan["images"] <= plan["of"]
    if data["what"] == "evaluation":
        assert f"of all {plan['of']:,} images robust accuracy from" in said
        assert data["robust_accuracy_of_all"]["n"] == plan["images"] == data["data"]["n"]


@pytest.mark.parametrize("plan", [["--target-width", "30"], ["--protocol", "fast"], ["--budget", "20s"]])
def test_what_was_said_of_the_network_is_kept(run: Any, monkeypatch: Any, plan: list[str]) -> None:
    built = evaluation_setup.build_model

    def build(*args: Any) -> Any:
        notice("the network is odd")
        return built(*args)

    monkeypatch.setattr(evaluation_setup, "build_model", build)
    _, _, data = run(*plan, "--batch-size", "20", "--num-samples", "40")
    assert data["notes"][0] == "the network is odd"


def test_up_to_a_width(run: Any) -> None:
    code, said, data = run("--protocol", "fgsm", "--target-width", "20")
    assert code == 0
    assert "100 of 500 images: robust accuracy from" in said
    assert 100 * (data["robust_accuracy_of_all"]["high"] - data["robust_accuracy_of_all"]["low"]) <= 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "the budget is 'soon': expected a time such as 90s, 30m or 1h30m"),
        (["--budget", "0m"], "the budget is '0m'"),
        (["--budget", "1m", "--norm", "l1"], "--budget looks with cr, which knows linf and l2: for l1 give"),
        (["--protocol", "fast", "--norm", "l1"], "--protocol fast looks with cr"),
        (["--budget", "0.01s"], "is too small for a batch of 250 images under pgd-20"),
        (["--budget", "1m", "--target-width", "1"], "--budget and --target-width both say when to stop"),
        (["--budget", "1m", "--state", "s"], "--budget chooses by the clock"),
        (["--budget", "1m", "--protocol", "fast"], "do not go with --protocol fast"),
        (["--budget", "1m", "--protocol", "autoattack-sampled", "--screen", "fab"], "unknown screen 'fab'"),
        (["--budget", "1m", "--protocol", "autoattack-sampled", "--sample", "0"], "the sample is 0"),
        (["--target-width", "0"], "the width is 0.0: expected percentage points"),
        (["--target-width", "wide"], "invalid float value: 'wide'"),
        (["--screen", "cr"], "--screen goes with --protocol autoattack-sampled alone"),
        (["--protocol", "cr", "--sample", "5"], "--sample goes with --protocol autoattack-sampled alone"),
        (["--protocol", "autoattack-sampled", "--screen", "fab"], "unknown screen 'fab'"),
        (["--protocol", "autoattack-sampled", "--sample", "0"], "the sample is 0"),
        (["--protocol", "autoattack-sampled", "--sample", "5", "--target-width", "1"], "contradict each other"),
        (["--protocol", "autoattack-sampled", "--eps", "8"], "did you mean 8/255"),
        (["--protocol", "autoatack-sampled"], "unknown protocol 'autoatack-sampled'; did you mean"),
    ],
)
def test_bad_input_is_one_line(
    run: Any, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, data = run(*words)
    assert code == 2
    assert message in said
    told = "note: no --weights: the weights are those that means_network:network gives "
    assert said.removeprefix(told).startswith("clat: error: ")
    assert data is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["curve", "--protocol"], ["transfer", "--protocol"]])
@pytest.mark.parametrize("plan", ["fast", "autoattack-sampled"])
def test_elsewhere_a_plan_is_no_protocol(command: list[str], plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--model", "resnet18"] if command[0] == "curve" else ["--network", "a", "resnet18"]
    assert cli.main([*command, plan, *more]) == 2
    assert f"'{plan}' is more than a protocol" in capsys.readouterr().err
