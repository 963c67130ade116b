"""What a run says of the network that it begins with, and of what moves though it is not selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import clat
from clat.criticality.selection import Selection
from clat.objectives import Clat, PgdAT, Standard
from clat.recipe.schema import StageConfig
from clat.training.warnings import lacks_robustness
from helpers import runs as kit


class Three(nn.Module):
    """Three convolutions, of which the tests change or tie some."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.c1, self.c2, self.c3):
            x = F.relu(conv(x))
        return self.head(x.mean((2, 3)))


def three() -> Three:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Three()


def stage(layer: str, **changes: Any) -> StageConfig:
    rule = Selection(rule="named", layers=(layer,), every=0)
    return StageConfig(**{"name": "only", "epochs": 1, "objective": PgdAT(steps=1), "selection": rule} | changes)


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm], ids=["hook", "parametrization"])
@pytest.mark.parametrize("selected", ["c2", "c3"])
def test_a_spectral_norm_iterates_only_in_a_layer_that_moves(norm: Any, selected: str, tmp_path: Path) -> None:
    """Its iteration changes the weight that the layer computes, at each forward pass in training mode."""

    def build() -> nn.Module:
        model = three()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for layer in (model.c2, model.c3):
                norm(layer)
        return model

    before = {name: value.clone() for name, value in build().state_dict().items()}
    result = clat.train(
        kit.recipe(stages=(stage(selected),)), tmp_path / "run", model=build(), data=kit.data(), quiet=True
    )
    moved = {name for name, value in result.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {selected}
    assert any("_u" in name for name in moved), "that of the selected layer goes on"
    assert result.summary["warnings"] == []


def test_without_a_selection_every_spectral_norm_iterates(tmp_path: Path) -> None:
    model = three()
    parametrizations.spectral_norm(model.c2)
    before = model.c2.parametrizations.weight[0]._u.clone()
    clat.train(kit.recipe(stages=(kit.pgd_at(1),)), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert not torch.equal(model.c2.parametrizations.weight[0]._u, before)


def test_a_layer_that_shares_a_selected_weight_is_named(tmp_path: Path) -> None:
    model = three()
    model.c3.weight = model.c2.weight
    result = clat.train(
        kit.recipe(stages=(stage("c2", epochs=2),)), tmp_path / "run", model=model, data=kit.data(), quiet=True
    )
    assert result.summary["warnings"] == ["c3 shares weights with the selected layers, and moves with them"]
    (record,) = kit.records(tmp_path / "run", "warning")
    assert record["kind"] == "shared-weights"


def test_the_network_itself_that_shares_a_weight_is_named(tmp_path: Path) -> None:
    model = three()
    model.again = model.c2.weight
    result = clat.train(
        kit.recipe(stages=(stage("c2"),)), tmp_path / "run", model=model, data=kit.data(), quiet=True
    )
    said = "the network itself shares weights with the selected layers, and moves with them"
    assert result.summary["warnings"] == [said]


CLAT = Clat(steps=1)


@pytest.mark.parametrize("objective", [CLAT, PgdAT(steps=1)], ids=["clat", "pgd-at"])
def test_a_start_without_robustness_is_warned_of(objective: Any, tmp_path: Path) -> None:
    """A network of random weights has none; only what keeps robustness, and gives none, is told so."""
    recipe = kit.recipe(stages=(stage("conv2", objective=objective),), eps="0.3")
    result = clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    warnings = result.summary["warnings"]
    assert len(warnings) == (objective is CLAT)
    for warning in warnings:
        assert warning.startswith("stage 'only' begins with a network that is right on")
        assert "clat keeps a network's robustness and gives it none" in warning
        assert "clat harden" in warning
    assert [record["kind"] for record in kit.records(tmp_path / "run", "warning")] == ["no-robustness"] * len(
        warnings
    )


@pytest.mark.parametrize(("eps", "warned"), [("0.3", True), ("0.02", False)])
def test_a_later_stage_is_judged_by_the_check_before_it(eps: str, warned: bool, tmp_path: Path) -> None:
    stages = (kit.pgd_at(12, objective=Standard()), stage("conv2", name="clat", objective=CLAT))
    recipe = kit.recipe(stages=stages, eps=eps)
    result = clat.train(recipe, tmp_path / "run", model=kit.tiny(dropout=0.0), data=kit.data(), quiet=True)
    last = kit.records(tmp_path / "run", "epoch")[11]
    assert lacks_robustness(last["heldout_clean"], last["heldout_robust"], 4) == warned
    assert any("stage 'clat' begins" in warning for warning in result.summary["warnings"]) == warned


@pytest.mark.parametrize(
    ("clean", "robust", "classes", "lacks"),
    [(0.97, 0.13, 10, True), (0.8, 0.5, 10, False), (0.6, 0.15, 100, True), (0.55, 0.25, 100, False),
     (0.1, 0.1, 10, True), (0.9, 0.45, 2, True), (0.9, 0.7, 2, False), (0.0, 0.0, 10, True)],
)  # fmt: skip
def test_what_counts_as_no_robustness(clean: float, robust: float, classes: int, lacks: bool) -> None:
    assert lacks_robustness(clean, robust, classes) == lacks
