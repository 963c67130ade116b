"""`clat check` flags networks that are masked on purpose, each for its own reason, and lets sound ones pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.foreign_networks import FILES, foreign_network, weights_folder
from torch import Tensor, nn

import clat
from clat import cli
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.data import load_split
from clat.evaluation.masking import network_signs
from clat.evaluation.masking.attacked_network import AttackedNetwork
from clat.evaluation.masking.excess import must_not_beat
from clat.evaluation.masking.network_signs import _rare
from clat.evaluation.masking.report import NOT_RUN, OK, SUSPICIOUS, CheckReport, signs_in_words
from clat.evaluation.masking.signs import SIGNS
from helpers.masked_networks import Around, Reversed, digits, train

EPS = 0.1


@pytest.fixture(scope="module")
def robust_net() -> nn.Module:
    return train(adversarial=True)


@pytest.fixture(scope="module")
def test_digits() -> tuple[Tensor, Tensor]:
    x, y = digits("test")
    return x[:60], y[:60]


def found(report: CheckReport) -> set[str]:
    return {row.name for row in report.rows if row.verdict == SUSPICIOUS}


def test_a_robust_network_passes(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    report = clat.check(robust_net, *test_digits, eps=EPS)
    assert found(report) == set()
    assert not report.suspicious
    assert [row.name for row in report.rows] == list(SIGNS)
    assert {row.verdict for row in report.rows} == {OK}
    assert report.clean.value > 0.8


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_standard_network_passes(norm: str, test_digits: tuple[Tensor, Tensor]) -> None:
    """It has no robustness, but nothing hides that."""
    report = clat.check(train(adversarial=False), *test_digits, eps=EPS if norm == "linf" else 0.5, norm=norm)
    assert found(report) == set()


def test_a_linear_network_passes(test_digits: tuple[Tensor, Tensor]) -> None:
    """Without a hidden layer there is no feature attack."""
    x, y = digits("train")
    means = torch.stack([x[y == k].mean(0) for k in range(10)]).flatten(1)
    linear = nn.Linear(192, 10)
    with torch.no_grad():
        linear.weight.copy_(means)
        linear.bias.copy_(-means.square().sum(1) / 2)
    report = clat.check(nn.Sequential(nn.Flatten(), linear), *test_digits, eps=EPS)
    assert found(report) == set()
    assert report["feature attack"].verdict == NOT_RUN
    assert "no hidden layer" in report["feature attack"].why


# Masked on purpose


def test_quantised_input(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    masked = Around(robust_net, before=lambda x: (x * 5).round() / 5)
    report = clat.check(masked, *test_digits, eps=2 * EPS)
    assert {"zero gradients", "unbounded eps", "black box"} <= found(report)
    assert report["zero gradients"].value == 1.0


def test_quantised_input_without_any_gradient(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    """What cannot be attacked is reported once, and not as an error."""
    masked = Around(robust_net, before=lambda x: (x * 5).round().detach() / 5)
    report = clat.check(masked, *test_digits, eps=EPS)
    assert found(report) == {"zero gradients"}
    assert "no gradient towards its input" in report["zero gradients"].why
    assert report["one step"].verdict == NOT_RUN
    assert report["random forward"].verdict == OK


def test_exploding_logits(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    masked = Around(robust_net, after=lambda z: 1e4 * z)
    report = clat.check(masked, *test_digits, eps=2 * EPS)
    assert {"zero gradients", "saturated softmax", "unbounded eps", "black box", "other loss"} <= found(report)


def test_a_layer_of_random_noise(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    masked = Around(robust_net, before=lambda x: x + 0.1 * torch.randn_like(x))
    before = torch.random.get_rng_state()
    report = clat.check(masked, *test_digits, eps=EPS)
    assert "random forward" in found(report)
    assert report["random forward"].value == 1.0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_gradient_of_the_wrong_sign(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    """Attacks walk the wrong way, so noise and queries find more than they."""

    report = clat.check(Around(robust_net, before=Reversed.apply), *test_digits, eps=2 * EPS)
    assert {"unbounded eps", "black box"} <= found(report)
    assert not {"zero gradients", "random forward", "saturated softmax"} & found(report)


def test_a_broken_gradient(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    """The square root's slope is infinite at 0: finite logits, NaN for a gradient."""
    masked = Around(robust_net, after=lambda z: z + (z - z).abs().sqrt())
    report = clat.check(masked, *test_digits, eps=EPS)
    assert "broken gradients" in found(report)
    assert report["broken gradients"].value == 1.0
    assert "one step" in found(report)  # the attack's own error, told once
    assert report["more steps"].verdict == NOT_RUN


# Thresholds


def subject(n: int) -> AttackedNetwork:
    made = AttackedNetwork(
        nn.Identity(), torch.zeros(n, 1, 1, 1), torch.zeros(n).long(), ThreatModel.parse(1), 0, 1, None
    )
    made.clean = torch.ones(n, dtype=torch.bool)
    return made


def withstand(n: int, fooled: range) -> Tensor:
    robust = torch.ones(n, dtype=torch.bool)
    robust[list(fooled)] = False
    return robust


def test_a_difference_counts_only_beyond_chance() -> None:
    """Seven samples to none has p = 1/128 by one side of McNemar's test, four to none 1/16."""

    def verdict(weaker: range, stronger: range, usual: float = 0.0) -> tuple[float, str]:
        one = subject(100)
        return must_not_beat(one, withstand(100, weaker), withstand(100, stronger), ("a", "b"), usual)[:2]

    assert verdict(range(50), range(50, 90)) == (pytest.approx(0.1), OK)
    assert verdict(range(20), range(20)) == (0, OK)
    assert verdict(range(4), range(0)) == (pytest.approx(0.04), OK)
    assert verdict(range(8), range(0)) == (pytest.approx(0.08), SUSPICIOUS)
    assert verdict(range(8), range(0), usual=0.05) == (pytest.approx(0.08), OK)
    assert verdict(range(30), range(0), usual=0.05) == (pytest.approx(0.3), SUSPICIOUS)
    assert verdict(range(0), range(80)) == (pytest.approx(-0.8), OK)


def test_a_rare_oddity_is_not_a_sign() -> None:
    assert _rare(~withstand(200, range(2)), "odd")[1] == OK
    assert _rare(~withstand(200, range(3)), "odd")[1] == SUSPICIOUS


# Around it


def test_the_same_seed_gives_the_same_report(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    x, y = test_digits
    one, other = (clat.check(robust_net, x[:10], y[:10], eps=EPS, seed=3) for _ in range(2))
    assert one.rows == other.rows
    assert one.to_dict().keys() == other.to_dict().keys()


def test_no_trace_in_the_model(test_digits: tuple[Tensor, Tensor]) -> None:
    x, _ = test_digits
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    clat.check(model, x[:20], y[:20], eps=EPS)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_bad_input(robust_net: nn.Module, test_digits: tuple[Tensor, Tensor]) -> None:
    x, y = test_digits
    for model, changes, says in (
        (robust_net, {"eps": 8}, "did you mean 8/255"),
        (robust_net, {"eps": 0}, "eps is 0"),
        (robust_net, {"norm": "l3"}, "unknown norm"),
        (robust_net, {"x": x * 255}, "divide by 255"),
        (robust_net, {"y": y[:3]}, "3 labels for 60 images"),
        (robust_net, {"batch_size": 0}, "batch_size is 0"),
        (robust_net, {"x": x[:0], "y": y[:0]}, "empty"),
        (robust_net, {"y": torch.full_like(y, 9), "x": x[y == 0][:1].expand(60, -1, -1, -1)}, "right on none"),
        (Around(robust_net, after=lambda z: {"scores": z}), {}, "does not return logits"),  # type: ignore[arg-type, return-value]
        (Around(robust_net, after=lambda z: z / 0), {}, "NaN or infinite"),
        (Around(robust_net, after=lambda z: z.softmax(1)), {}, "probabilities"),
    ):
        given: dict[str, Any] = {"x": x, "y": y, "eps": EPS} | changes
        with pytest.raises(ClatError, match=says):
            clat.check(model, given.pop("x"), given.pop("y"), **given)


NETWORK = """
from torch import nn

class Steps(nn.Module):
    def forward(self, x):
        return (x * 4).round() / 4

def sound(num_classes=10): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
def masked(num_classes=10): return nn.Sequential(Steps(), sound(num_classes))
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check_network.py").write_text(NETWORK)
    common = ["check", "--num-samples", "30", "--eps", "0.1", "--model"]
    torch.manual_seed(0)
    assert cli.main([*common, "check_network:masked", "--out", "check.json"]) == 0
    data = json.loads(Path("check.json").read_text())
    assert data["suspicious"]
    assert [row["name"] for row in data["rows"]] == list(SIGNS)
    assert data["rows"][0] == {
        "name": "zero gradients", "value": 1.0, "verdict": "suspicious",
        "why": "the cross-entropy's input gradient is exactly zero on 30 of 30 images",
    }  # fmt: skip
    assert (data["model"], data["data"]["n"], data["eps"]) == ("check_network:masked", 30, "0.1")
    assert "zero gradients" in capsys.readouterr().out
    assert cli.main([*common, "check_network:masked", "--strict"]) == 1
    assert cli.main([*common, "check_network:sound", "--strict"]) == 0
    capsys.readouterr()
    for words, says in (
        (["check_network:sound", "--out", "check.json"], "exists already"),
        (["check_network:sound", "--eps", "8"], "did you mean 8/255"),
        (["check_network:sound", "--num-samples", "0"], "give 1 to"),
        (["check_network:sund"], "sund"),
    ):
        assert cli.main([*common, *words]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clean"), [("cnn_a", 0.67), ("resnet4b", 0.81)])
def test_a_real_robust_network_passes(name: str, clean: float) -> None:
    if not (weights_folder() / FILES[name]).exists():
        pytest.skip("needs CLAT_DATA_DIR with cifar10, and the weights folder beside it")
    part = load_split("cifar10", "test", resident_limit=0, cache=False).take(100).load()
    assert isinstance(part.images, Tensor)
    report = clat.check(foreign_network(name), part.images.float() / 255, part.labels, eps="2/255")
    assert {row.name: row.verdict for row in report.rows} == dict.fromkeys(SIGNS, OK)
    assert report.clean.value == clean


def test_points_of_the_ball_are_drawn_where_the_images_are(monkeypatch):
    """torch refuses a generator of the CPU for images on a GPU."""
    asked = []
    made = network_signs.generator

    def spied(*parts, device="cpu"):
        asked.append((parts[1], device))
        return made(*parts, device=device)

    monkeypatch.setattr(network_signs, "generator", spied)
    model, x = nn.Sequential(nn.Flatten(1), nn.Linear(48, 3)), torch.rand(8, 3, 4, 4)
    clat.check(model, x, model(x).argmax(1), eps="8/255")
    assert ("check-around", torch.device("cpu")) in asked


def test_an_eps_that_holds_every_image_is_refused():
    model, x = nn.Sequential(nn.Flatten(1), nn.Linear(48, 3)), torch.rand(8, 3, 4, 4)
    y = model(x).argmax(1)
    with pytest.raises(ClatError, match=r"eps 128 in l2 is above 7, where a ball holds .* 128 of 255 is 128/255"):
        clat.check(model, x, y, eps=128, norm="l2")
    clat.check(model, x, y, eps=7, norm="l2")
    with pytest.raises(ClatError, match="unknown norm 'l1'"):
        clat.check(model, x, y, eps=7, norm="l1")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("ok", "not run"), "No sign of gradient masking was found on 1,200 test images."),
        (("ok", "suspicious"), "There are signs of gradient masking on 1,200 test images (b): robust accuracy"),
    ],
)
def test_what_was_found_is_one_sentence(verdicts, said):
    rows = [{"name": name, "verdict": verdict} for name, verdict in zip("ab", verdicts, strict=True)]
    assert signs_in_words({"rows": rows, "clean_accuracy": {"n": 1200}}).startswith(said)
    assert signs_in_words({"rows": 3}) is signs_in_words({}) is None
