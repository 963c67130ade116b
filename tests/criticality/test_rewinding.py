"""Going back to the initial weights: hand-made networks, the search for the minimum, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat import RankingReport, measure_rewinding_criticality, measure_rewinding_drop
from clat.core.errors import ClatError
from clat.criticality import rewinding
from clat.criticality.rewinding import SIGMAS
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


def largest_network() -> tuple[nn.Module, Tensor, Tensor]:
    """Two layers, the first the identity, the second tells which of three channels is largest; all labels right."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Flatten(), nn.Linear(3, 3, bias=False))
    for layer in (model[0], model[2]):
        nn.init.eye_(layer.weight.data.view(3, 3))
    x = torch.rand(20, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return model, x, x.flatten(1).argmax(1)


def opposite(model: nn.Module) -> dict[str, Tensor]:
    """The start: the second layer tells the smallest one, the first is as it will be."""
    state = copy.deepcopy(model.state_dict())
    state["2.weight"] = -state["2.weight"]
    return state


def test_the_drop_by_hand() -> None:
    model, x, y = largest_network()
    layers = enumerate_layers(model, x, classifier=True)
    report = measure_rewinding_drop(model, opposite(model), x, y, layers=layers)
    assert [row.value for row in report.rows] == [0.0, 1.0]
    assert [row.details["distance"] for row in report.rows] == pytest.approx([0.0, 2 * math.sqrt(3)])
    assert report.baseline["accuracy"] == 1.0
    assert report.cost.forwards == 3 * len(x)


class Turning(nn.Module):
    """Complex weights, a square root of -1 apart from their start, whose real part is looked at."""

    def __init__(self, weight: complex) -> None:
        super().__init__()
        self.turn = nn.Module()
        self.turn.weight = nn.Parameter(torch.full((2, 1), weight))
        self.turn.forward = lambda x: x.flatten(1).mean(1, keepdim=True) * self.turn.weight[:, 0]
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turn(x).real)


def test_complex_weights_have_their_distance_and_noise() -> None:
    model, x, y = Turning(1 + 0j), torch.rand(6, 1, 2, 2), torch.tensor([0, 1] * 3)
    start = {**model.state_dict(), "turn.weight": torch.full((2, 1), 0 + 1j)}
    layers = enumerate_layers(model, x, include=["turn"])
    (row,) = measure_rewinding_drop(model, start, x, y, layers=layers).rows
    assert row.details["distance"] == pytest.approx(2.0)  # |1 - i|^2 = 2, twice
    valley = rewinding._Valley(model, layers[0], {"turn.weight": start["turn.weight"]}, 0)
    assert valley.unit == pytest.approx(0.5**0.5)  # of four real numbers two are 1
    seen: list[Tensor] = []
    valley._within(lambda weights: float(seen.append(weights["turn.weight"]) or 0), 1.0, 0.1, 1.0, 2)
    assert all((noisy - model.turn.weight).imag.abs().min() > 0 for noisy in seen)


def test_the_criticality_by_hand() -> None:
    """Between W0 = -I and WF = I the weights are (2 alpha - 1) I, right from alpha above one half on. With one tiny
    sigma the minimum is at the smallest such alpha, 0.6, and mu = (0.6 * |2 I| / sigma)^2; the root mean square of
    the weights is 1 / sqrt(3). A layer that did not move has mu = 0."""
    model, x, y = largest_network()
    layers = enumerate_layers(model, x, classifier=True)
    report = measure_rewinding_criticality(
        model, opposite(model), x, y, layers=layers, sigmas=[1e-6], slack=0.0, draws=3
    )
    sigma = 1e-6 * math.sqrt(1 / 3)
    assert report.rows[0].value == 0
    assert report.rows[1].value == pytest.approx(0.36 * 12 / sigma**2)
    assert report.rows[1].details == pytest.approx({"distance": math.sqrt(12), "alpha": 0.6, "sigma": sigma})
    free = measure_rewinding_criticality(model, opposite(model), x, y, layers=layers, threshold=1.0)
    assert [row.value for row in free.rows] == [0.0, 0.0]
    assert free.rows[1].details["alpha"] == 0


def start_of(model: nn.Module) -> dict[str, Tensor]:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return other.state_dict()


@pytest.mark.parametrize("loss", ["error", "cross-entropy"])
def test_the_search_finds_the_minimum_over_the_grid(loss: Any, lively: Build, images: Tensor) -> None:
    model = lively()
    start, layer = start_of(model), enumerate_layers(model, images)[1]
    with torch.no_grad():
        y = model(images).argmax(1)
    report = measure_rewinding_criticality(
        model, start, images, y, layers=[layer], loss=loss, slack=0.1, alphas=4, sigmas=(0.05, 0.3, 2.0), draws=2
    )
    first = rewinding._first_weights(model, start, [layer])
    valley = rewinding._Valley(model, layer, first[layer.name], seed=0)
    judge = rewinding._loss(model, images, y, loss, 100)
    allowed = report.settings["threshold"]
    with torch.no_grad():
        values = [
            (alpha * valley.distance / (sigma * valley.unit)) ** 2
            for alpha in (0, 1 / 3, 2 / 3, 1)
            for sigma in (0.05, 0.3, 2.0)
            if valley._within(judge, alpha, sigma * valley.unit, allowed, 2)
        ]
    assert report.rows[0].value == pytest.approx(min(values))
    assert min(values) > 0


def test_nothing_on_the_grid_meets_the_threshold(
    tiny_resnet: Build, images: Tensor, labels: Tensor, tmp_path: Any
) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:2]
    report = measure_rewinding_criticality(
        model, start_of(model), images, labels, layers=layers, threshold=-1.0, alphas=2, sigmas=[0.1], draws=1
    )
    assert [row.value for row in report.rows] == [math.inf, math.inf]
    report.to_json(tmp_path / "r.json")
    assert RankingReport.from_json(tmp_path / "r.json") == report


def test_seeds_and_no_trace(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    before, start = copy.deepcopy(model.state_dict()), start_of(model)
    with torch.no_grad():
        y = model(images).argmax(1)

    def measure(seed: int) -> RankingReport:
        layers = enumerate_layers(model, images)[:5]
        return measure_rewinding_criticality(
            model, start, images, y, layers=layers, seed=seed, draws=1, loss="cross-entropy", sigmas=SIGMAS[:8]
        )

    assert measure(0) == measure(0)
    assert [row.details for row in measure(0).rows] != [row.details for row in measure(1).rows]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_names_as_in_a_weight_file(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    start = start_of(model)
    prefixed = {f"module.{name}": value for name, value in start.items()}
    one, two = (measure_rewinding_drop(model, state, images, labels) for state in (start, prefixed))
    assert one == two


def test_bad_input(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    start = start_of(model)
    with pytest.raises(ClatError, match="nothing to rewind"):
        measure_rewinding_drop(model, model.state_dict(), images, labels)
    with pytest.raises(ClatError, match="1 missing"):
        measure_rewinding_drop(model, {k: v for k, v in start.items() if k != "conv1.weight"}, images, labels)
    with pytest.raises(ClatError, match="did you mean 'error'"):
        measure_rewinding_criticality(model, start, images, labels, loss="eror")  # type: ignore[arg-type]
    for settings in ({"alphas": 1}, {"draws": 0}, {"sigmas": ()}, {"sigmas": (0.0,)}):
        with pytest.raises(ClatError, match="at least 2 alphas"):
            measure_rewinding_criticality(model, start, images, labels, **settings)
