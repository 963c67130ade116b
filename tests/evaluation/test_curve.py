"""Accuracy against eps on a linear network, where it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clat import cli
from clat.core.errors import ClatError
from clat.evaluation.curve import EpsCurve, eps_curve
from clat.evaluation.statistics import Accuracy
from clat.report.robustness import eps_plot

SIZES = ("0", "2/255", "5/255", "10/255", "20/255")


def test_every_point_is_the_closed_form(linear: Any, samples: Any) -> None:
    """With two classes the steepest direction is the same everywhere, so PGD finds the best perturbation."""
    model = linear(classes=2, seed=1)
    x, y = samples(model, 40)
    distances = model.distances(x, y)
    sizes = ["0", "0.05", "0.066", "0.07", "0.09"]
    curve = eps_curve(model, x, y, eps=sizes[::-1], protocol="pgd-10", batch_size=13)
    assert [eps for eps, _ in curve.points] == sizes
    for eps, accuracy in curve.points:
        assert accuracy.correct == int((distances > float(eps)).sum())
        assert accuracy.n == 40
    assert len({accuracy.correct for _, accuracy in curve.points}) == len(sizes)


def test_without_clean_accuracy_and_with_doubles(linear: Any, samples: Any) -> None:
    model = linear()
    x, y = samples(model, 10)
    curve = eps_curve(model, x, y, eps=["4/255", 4 / 255, 0.1], protocol="fgsm")
    assert [eps for eps, _ in curve.points] == ["4/255", "0.1"]
    with pytest.raises(ClatError, match="at least one eps above 0"):
        eps_curve(model, x, y, eps=[0])
    for one in ("4/255", 4 / 255):
        assert eps_curve(model, x, y, eps=one, protocol="fgsm").points == curve.points[:1]
    with pytest.raises(ClatError, match="did you mean 8/255"):
        eps_curve(model, x, y, eps=[8])
    with pytest.raises(ClatError, match="protocol 'pixle' heeds no eps"):
        eps_curve(model, x, y, eps=["4/255"], protocol="pixle")


def test_the_result_as_data_and_plot(linear: Any, samples: Any, tmp_path: Path) -> None:
    model = linear()
    x, y = samples(model, 10)
    curve = eps_curve(model, x, y, eps=SIZES, protocol="fgsm", about={"model": "linear"})
    curve.to_json(tmp_path / "curve.json")
    data = json.loads((tmp_path / "curve.json").read_text())
    assert data["model"] == "linear"
    assert [point["eps"]["text"] for point in data["points"]] == list(SIZES)
    assert [one["eps"]["text"] for one in data["evaluations"]] == list(SIZES[1:])
    assert all(len(one["robust"]) == 10 and "environment" not in one for one in data["evaluations"])
    axes = eps_plot(data).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "2", "5", "10", "20"]
    assert "× 255" in axes.get_xlabel()
    data["points"] = [{**point, "eps": {"text": f"0.{i}1"}} for i, point in enumerate(data["points"])]
    assert "255" not in eps_plot(data).axes[0].get_xlabel()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "curve_network.py").write_text(
        "from torch import nn\n"
        "def make(num_classes=10): return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    )
    common = ["curve", "--model", "curve_network:make", "--num-samples", "20", "--protocol", "fgsm"]
    assert cli.main([*common, "--eps", "0, 2/255,0.1", "--out", "c.json", "--plot", "c.svg"]) == 0
    assert [point["eps"]["text"] for point in json.loads(Path("c.json").read_text())["points"]] == [
        "0", "2/255", "0.1",
    ]  # fmt: skip
    assert "<svg" in Path("c.svg").read_text()
    capsys.readouterr()
    for words, says in (
        (["--eps", "0"], "at least one eps above 0"),
        (["--eps", "1/255,,2/255"], "eps is ''"),
        (["--eps", "1/255,8"], "did you mean 8/255"),
        (["--protocol", "pgd-21"], "unknown protocol"),
        (["--protocol", "stadv"], "protocol 'stadv' heeds no eps"),
        (["--plot", "c.pdf"], "must end in .svg or .png"),
        (["--out", "c.json"], "exists already"),
    ):
        assert cli.main([*common, *words]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_the_accuracy_to_expect_is_the_area_under_the_curve() -> None:
    """By trapezia: 1 to 0.5 over one unit, 0.5 to 0 over three."""
    points = tuple((eps, Accuracy(correct, 10)) for eps, correct in (("0", 10), ("1/255", 5), ("4/255", 0)))
    assert EpsCurve(points, ()).expected_accuracy == pytest.approx((0.75 + 3 * 0.25) / 4)
    assert EpsCurve(points[:1], ()).expected_accuracy is None
