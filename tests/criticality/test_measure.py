"""Every ranking by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.criticality.rankings import (
    RANKINGS,
    ActivationRanking,
    CriticalityRanking,
    RewindingRanking,
    RobustCriticalityRanking,
    make_ranking,
)
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


@pytest.mark.parametrize("name", RANKINGS)
def test_each_ranks_the_layers_that_it_is_given(
    name: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[2:5]
    start = {
        key: value + torch.ones(()) if value.dim() == 4 else value for key, value in model.state_dict().items()
    }
    ranking = make_ranking(name, {"steps": 1, "epochs": 1})
    report = ranking.measure(model, images, labels, layers=layers, eps="0.1", initial=start, seed=4)
    assert report.ranking == name
    assert [(row.index, row.name) for row in report.rows] == [(layer.index, layer.name) for layer in layers]
    assert report.top(1)[0] in {layer.name for layer in layers}
    assert report.seed == 4  # type: ignore[attr-defined]


def test_names_and_the_weights_of_the_start(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:2]
    with pytest.raises(ClatError, match="did you mean 'mrc'"):
        make_ranking("mcr", {})
    rewinding = [name for name, ranking in RANKINGS.items() if ranking.needs_initial]
    assert rewinding == ["rewinding", "rewinding-drop"]
    for name in rewinding:
        with pytest.raises(ClatError, match="weights of the start"):
            make_ranking(name, {}).measure(model, images, labels, layers=layers, eps=0.1)


@pytest.mark.parametrize("name", RANKINGS)
def test_the_settings_are_those_of_the_function_at_its_defaults(name: str) -> None:
    """So that a ranking means the same from a recipe, the command line and Python."""
    takes = inspect.signature(RANKINGS[name].function).parameters
    for setting, value in RANKINGS[name]().settings().items():
        default = takes[setting].default
        assert value == ("numel" if setting == "normaliser" else default)
    assert ("eps" in takes) == RANKINGS[name].attacks
    assert ("initial" in takes) == RANKINGS[name].needs_initial


def test_the_settings_reach_the_measurement(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    given: dict[str, Any] = {"layers": enumerate_layers(model, images)[:2], "eps": 0.1, "norm": "l2"}
    plain = CriticalityRanking(steps=1, alpha=0.02, normaliser="sqrt", tap="norm", predecessor="input")
    report: Any = plain.measure(model, images, labels, **given)
    said = (report.steps, report.alpha, report.normaliser, report.tap, report.predecessor, report.norm)
    assert said == (1, 0.02, "sqrt", "norm", "input", "l2")
    robust = RobustCriticalityRanking(steps=2, radius=0.2, epochs=1, lr=0.5, batch_size=3)
    report = robust.measure(model, images, labels, **given)
    assert [report.settings[key] for key in ("steps", "radius", "epochs", "lr")] == [2, 0.2, 1, 0.5]
    driven = ActivationRanking(steps=1, decay=0.5, tap="norm", value="error", batch_size=3)
    report = driven.measure(model, images, labels, **given)
    assert [report.settings[key] for key in ("steps", "decay", "tap", "value")] == [1, 0.5, "norm", "error"]


def test_what_the_paper_divides_by() -> None:
    """W by N_i, nu by nothing; what is said is kept."""
    assert CriticalityRanking().normaliser == "numel"
    assert CriticalityRanking(metric="curvature").normaliser == "none"
    assert CriticalityRanking(metric="curvature", normaliser="numel").normaliser == "numel"


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (CriticalityRanking, {"normaliser": "numle"}, "did you mean 'numel'"),
        (CriticalityRanking, {"tap": "outputs"}, "did you mean 'output'"),
        (CriticalityRanking, {"metric": "weaknes"}, "did you mean 'weakness'"),
        (CriticalityRanking, {"predecessor": "inputs"}, "did you mean 'input'"),
        (CriticalityRanking, {"steps": 0}, "steps is 0"),
        (CriticalityRanking, {"alpha": 0}, "alpha is 0"),
        (RobustCriticalityRanking, {"radius": -1}, "radius"),
        (RobustCriticalityRanking, {"batch_size": 0}, "batch_size is 0"),
        (ActivationRanking, {"decay": 2}, "decay"),
        (ActivationRanking, {"value": "eror"}, "did you mean 'error'"),
        (RewindingRanking, {"loss": "eror"}, "did you mean 'error'"),
        (RewindingRanking, {"draws": 0}, "1 draw"),
    ],
)
def test_a_ranking_that_makes_no_sense_is_refused(
    build: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClatError, match=message):
        build(**settings)
