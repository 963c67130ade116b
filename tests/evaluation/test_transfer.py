"""The transfer matrix where its entries are known: identical networks, networks that see nothing, linear ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat import cli
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.evaluation import Accuracy, evaluate, find_protocol
from clat.evaluation.live import evaluation_progress
from clat.evaluation.transfer import make_examples, transfer
from clat.network.logits import SQUASHED_NOTE
from clat.report.robustness import transfer_map


class Constant(nn.Module):
    """Says class 1, whatever it sees, and has a gradient that is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 2.0, -1.0, 0.0, 0.0]) + 0 * x.sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("protocol", ["pgd-10", "apgd"])
def test_between_identical_networks_it_is_white_box(linear: Any, samples: Any, protocol: str) -> None:
    one, twin = linear(), linear()
    x, y = samples(one, 30)
    matrix = transfer({"one": one, "twin": twin}, x, y, eps=0.078, protocol=protocol)
    white_box = evaluate(one, x, y, eps=0.078, protocol=protocol)
    assert 0 < white_box.robust_accuracy.correct < white_box.clean_accuracy.correct
    for attacker in ("one", "twin"):
        assert matrix.accuracy(None, attacker) == white_box.clean_accuracy
        for victim in ("one", "twin"):
            assert matrix.accuracy(attacker, victim) == white_box.robust_accuracy
    assert torch.equal(matrix.right[0, 1], white_box.robust)


def test_a_constant_network_neither_fools_nor_is_fooled(linear: Any, samples: Any) -> None:
    model = linear()
    x, y = samples(model, 30)
    matrix = transfer({"linear": model, "constant": Constant()}, x, y, eps=0.1, protocol="apgd-ce")
    assert matrix.accuracy("linear", "constant") == matrix.accuracy(None, "constant")
    assert matrix.accuracy("constant", "constant") == matrix.accuracy(None, "constant")
    assert matrix.accuracy("linear", "linear").correct < matrix.accuracy("constant", "linear").correct


def test_the_white_box_is_the_strongest_attacker(linear: Any, samples: Any) -> None:
    models = {str(seed): linear(seed=seed) for seed in range(3)}
    x, y = samples(models["0"], 30)
    matrix = transfer(models, x, y, eps=0.08)
    column = [matrix.accuracy(attacker, "0").correct for attacker in models]
    assert column[0] == min(column) < matrix.accuracy(None, "0").correct


def test_pgd_attacks_images_that_are_wrong_already(linear: Any, samples: Any) -> None:
    """In the ball, still wrong on the attacker; the attacks of AutoAttack leave them as they are."""
    model = linear()
    x, y = samples(model, 30)
    with torch.no_grad():
        wrong = model(x).argmax(1) != y
    assert wrong.any()
    options = {"threat": ThreatModel.parse(0.078), "seed": 0}
    pgd, _ = make_examples(model, x, y, protocol=find_protocol("pgd-10"), batch_size=7, **options)
    apgd, _ = make_examples(model, x, y, protocol=find_protocol("apgd-ce"), batch_size=7, **options)
    moved = (pgd - x).abs().flatten(1).amax(1)
    assert (moved[wrong] > 0).any()
    assert (moved.double() <= 0.078).all()
    assert torch.equal(apgd[wrong], x[wrong])
    with torch.no_grad():
        assert (model(pgd).argmax(1) != y)[wrong].all()
    other, _ = make_examples(model, x, y, protocol=find_protocol("pgd-10"), batch_size=30, **options)
    assert torch.equal(pgd, other)


def test_what_an_evaluation_notes_of_an_attacker_is_kept(linear: Any, samples: Any) -> None:
    model = linear()
    squashed = nn.Sequential(linear(), nn.Sigmoid())
    x, y = samples(model, 30)
    matrix = transfer({"one": model, "squashed": squashed}, x, y, eps=0.078)
    assert matrix.notes == (f"squashed: {SQUASHED_NOTE}",)
    three = nn.Sequential(linear(), Firsts())
    y = y.clamp_max(2)
    matrix = transfer({"one": three, "two": three}, x, y, eps=0.078, protocol="apgd-t")
    assert len(matrix.notes) == 4
    assert "one: apgd-t: 2 targets instead of" in matrix.notes[0]


class Firsts(nn.Module):
    """The first three logits alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


def test_bad_input(linear: Any, samples: Any) -> None:
    model = linear()
    x, y = samples(model, 5)
    both = {"a": model, "b": linear(seed=1)}
    for networks, changes, says in (
        ({"a": model}, {}, "at least two networks"),
        (both, {"eps": 8}, "did you mean 8/255"),
        (both, {"eps": 0}, "eps is 0"),
        (both, {"protocol": "pgd-11"}, "did you mean 'pgd-1"),
        (both, {"norm": "l3"}, "unknown norm"),
        (both, {"batch_size": 0}, "batch_size is 0"),
        (both, {"x": x * 255}, "divide by 255"),
        (both, {"y": y[:2]}, "2 labels for 5 images"),
        (both, {"x": x.numpy()}, "expected a torch.Tensor"),
    ):
        given: dict[str, Any] = {"x": x, "y": y, "eps": 0.1} | changes
        with pytest.raises(ClatError, match=says):
            transfer(networks, given.pop("x"), given.pop("y"), **given)


def test_the_result_as_data_and_plot(linear: Any, samples: Any, tmp_path: Path) -> None:
    models = {"first": linear(), "second": linear(seed=1)}
    x, y = samples(models["first"], 20)
    told: list[str] = []
    with evaluation_progress() as report:
        matrix = transfer(models, x, y, eps="5/255", about={"note": "mine"}, report=report, attacking=told.append)
    assert told == ["first", "second"]
    matrix.to_json(tmp_path / "matrix.json")
    data = json.loads((tmp_path / "matrix.json").read_text())
    assert data["networks"] == ["first", "second"]
    assert data["attackers"]["first"]["second"] == matrix.accuracy("first", "second").to_dict()
    assert data["clean"]["second"]["n"] == data["n"] == 20
    assert (data["eps"]["text"], data["protocol"]["norm"], data["note"]) == ("5/255", "linf", "mine")
    assert data["cost"]["backwards"] > 0
    texts = [text.get_text() for text in transfer_map(data).axes[0].texts]
    assert f"{100 * matrix.accuracy('first', 'second').value:.1f}" in texts
    assert len(texts) == 2 * 6


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_names_in_the_plot_have_room(count: int) -> None:
    """Upright names stand side by side; where they cannot, all are slanted."""
    names = [f"PGD-AT + CLAT {place}" for place in range(count)]
    row = dict.fromkeys(names, Accuracy(60, 100).to_dict())
    setting = {"protocol": {"name": "pgd-10", "norm": "linf"}, "eps": {"text": "8/255"}, "n": 100}
    figure = transfer_map({**setting, "networks": names, "clean": row, "attackers": dict.fromkeys(names, row)})
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    slants = {label.get_rotation() for label in labels}
    assert slants == ({0.0} if count == 2 else {35.0})
    boxes = [label.get_window_extent() for label in labels]
    assert count > 2 or boxes[0].x1 < boxes[1].x0
    assert boxes[-1].x1 <= figure.bbox.x1


NETWORKS = """
import torch
from torch import nn

def make(num_classes=10, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, num_classes))
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "transfer_networks.py").write_text(NETWORKS)
    common = ["transfer", "--num-samples", "20", "--eps", "0.1"]
    first = ["--network", "narrow one", "transfer_networks:make"]
    second = ["--network", "wide", "transfer_networks:make", "width=32", "normalize=identity"]
    assert cli.main([*common, *first, *second, "--out", "m.json", "--plot", "m.png"]) == 0
    data = json.loads((tmp_path / "m.json").read_text())
    assert data["models"]["wide"]["width"] == 32
    assert data["data"] == {"name": "digits", "split": "test", "n": 20}
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    for words, says in (
        ([*first], "at least two networks"),
        ([*first, *first], "is there twice"),
        (["--network", "a"], "give a name and a model"),
        (["--network", "nets:make", "weights=a.pt"], "begin with a name of yours, then the model"),
        ([*first, *second[:3], "widht=3"], "did you mean 'width=...'?"),
        ([*first, *second[:3], "width=x"], "expected a whole number"),
        ([*first, *second[:3], "weights=absent.pt"], "no such file"),
        ([*first, *second, "--protocol", "pgd-11"], "unknown protocol"),
        ([*first, *second, "--attack", "pgd-11"], "unknown protocol"),
        ([*first, *second, "--plot", "m.pdf"], "must end in .svg or .png"),
        ([*first, *second, "--out", "m.json"], "exists already"),
        ([*first, *second, "--num-samples", "0"], "give 1 to"),
    ):
        assert cli.main([*common, *words]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
