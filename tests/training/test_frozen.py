"""Parameters that came in frozen stay, in every kind of stage; what is all frozen is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.criticality.selection import Selection
from clat.recipe.toml import build_recipe
from clat.training.stage import StageRunner
from helpers import runs as kit


class Owned(nn.Module):
    """The tiny network behind a fixed normalisation, held as parameters, and with a frozen convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.4), requires_grad=False)
        self.count = nn.Parameter(torch.tensor(3), requires_grad=False)
        self.inner = kit.tiny()
        self.inner.conv2.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - self.mean)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    with listening(lines.append):
        yield lines


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    "last",
    [
        {"name": "on", "epochs": 1, "objective": {"name": "pgd-at", "steps": 1}, "treatments": [{"name": "awp"}]},
        {
            "name": "lora",
            "epochs": 1,
            "objective": {"name": "pgd-at", "steps": 1},
            "treatments": [{"name": "lora"}],
        },
        {
            "name": "clat",
            "epochs": 1,
            "objective": {"name": "clat", "steps": 1},
            "selection": {"rule": "all"},
        },
    ],
    ids=lambda stage: stage["name"],
)
def test_they_stay_and_the_rest_moves(last: dict[str, Any], tmp_path: Any, said: list[str]) -> None:
    model = Owned()
    before = {name: value.clone() for name, value in model.named_parameters()}
    recipe = kit.recipe(stages=(kit.pgd_at(1), build_recipe({"stages": [{"epochs": 1, **last}]}).stages[0]))
    clat.train(recipe, tmp_path / "run", model=model, data=kit.data(), quiet=True)
    changed = moved(model, before)
    assert not changed & {"mean", "count", "inner.conv2.weight", "inner.conv2.bias"}
    assert {"inner.conv1.weight", "inner.head.weight"} <= changed
    assert not model.mean.requires_grad
    assert not model.inner.conv2.weight.requires_grad
    assert any("parameters, mean the first, came in frozen (requires_grad=False) and stay" in one for one in said)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {"mean", "count", "inner.conv2.weight"} <= set(about["model"]["frozen"])


def test_a_frozen_layer_is_not_selected(tmp_path: Any) -> None:
    stage = kit.clat(1, selection=Selection(rule="random", k=1, every=1))
    clat.train(kit.recipe(stages=(stage,)), tmp_path / "run", model=Owned(), data=kit.data(), quiet=True)
    assert "inner.conv2" not in kit.records(tmp_path / "run", "selection")[0]["layers"]
    for selection, says in (
        ({"rule": "named", "layers": ["inner.conv2"]}, "selection.layers names inner.conv2, which came in frozen"),
        ({"rule": "all", "include": ["inner.conv2"]}, "all layers that it may select came in frozen"),
    ):
        recipe = kit.recipe(stages=(kit.clat(1, selection=Selection(**selection)),))
        with pytest.raises(ClatError, match=says):
            clat.train(recipe, tmp_path / "no", model=Owned(), data=kit.data(), quiet=True)


def test_a_network_that_is_all_frozen_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ClatError, match="all parameters of the model are frozen"):
        clat.train(
            kit.recipe(), tmp_path / "run", model=kit.tiny().requires_grad_(False), data=kit.data(), quiet=True
        )


def test_a_resumed_run_wants_the_same_ones_frozen(tmp_path: Any) -> None:
    clat.train(kit.recipe(), tmp_path / "run", model=Owned(), data=kit.data(), quiet=True)
    other = Owned()
    other.inner.conv2.requires_grad_(True)
    with pytest.raises(ClatError, match=r"whose parameter inner\.conv2\.\w+ was frozen"):
        clat.resume(tmp_path / "run", model=other, data=kit.data(), quiet=True)


def test_a_buffer_with_infinities_from_the_beginning_is_no_divergence(tmp_path: Any) -> None:
    model = kit.tiny()
    model.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    clat.train(kit.recipe(), tmp_path / "run", model=model, data=kit.data(), quiet=True)


def test_a_tied_weight_that_is_frozen_makes_none_of_its_layers_movable(tmp_path: Any) -> None:
    model = kit.tiny()
    model.conv3.weight = model.conv2.weight
    model.conv3.bias = model.conv2.bias
    model.conv2.requires_grad_(False)
    stage = kit.clat(1, selection=Selection(rule="all"))
    clat.train(kit.recipe(stages=(stage,)), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert kit.records(tmp_path / "run", "selection")[0]["layers"] == ["conv1"]


def test_what_a_method_would_move_and_is_frozen_is_said_before_the_run(tmp_path: Any) -> None:
    model = kit.tiny().requires_grad_(False)
    model.head.bias.requires_grad_(True)
    stage = {"name": "lora", "epochs": 1, "objective": {"name": "pgd-at"}, "treatments": [{"name": "lora"}]}
    recipe = kit.recipe(stages=(build_recipe({"stages": [stage]}).stages[0],))
    with pytest.raises(ClatError, match="all that 'lora' would move came in frozen"):
        clat.train(recipe, tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_batch_norm_that_came_in_frozen_keeps_its_statistics(tmp_path: Any, said: list[str]) -> None:
    model = kit.tiny()
    model.bn2.requires_grad_(False)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    clat.train(kit.recipe(stages=(kit.pgd_at(1),)), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    changed = {name for name, value in model.named_buffers() if not torch.equal(value, statistics[name])}
    assert {name.partition(".")[0] for name in changed} == {"bn1", "bn3"}
    assert any("stay as they are, with the statistics of BatchNorm among them" in one for one in said)


@pytest.mark.parametrize("treatment", [{"name": "ema"}, {"name": "swa", "window": 2, "unit": "batches"}])
def test_averages_leave_a_frozen_whole_number_as_it_is(tmp_path: Any, treatment: dict[str, Any]) -> None:
    stage = {"name": "on", "epochs": 2, "objective": {"name": "pgd-at", "steps": 1}, "treatments": [treatment]}
    recipe = kit.recipe(stages=(build_recipe({"stages": [stage]}).stages[0],))
    model = Owned()
    clat.train(recipe, tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert int(model.count) == 3


def test_what_is_drawn_anew_starts_without_momentum(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    make = StageRunner.make_trainable

    def spied(self: StageRunner, selected: Any, state: Any) -> None:
        seen.append(dict(state))
        make(self, selected, state)

    monkeypatch.setattr(StageRunner, "make_trainable", spied)
    anew = {"name": "reinitialise", "modules": ["conv2"]}
    again = {"epochs": 1, "objective": {"name": "pgd-at", "steps": 1}}
    stages = build_recipe({"stages": [{**again, "name": "a"}, {**again, "name": "b", "treatments": [anew]}]}).stages
    clat.train(kit.recipe(stages=stages), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert {"conv1.weight", "conv3.weight"} <= seen[-1].keys()
    assert not {"conv2.weight", "conv2.bias"} & seen[-1].keys()


def test_a_run_whose_frozen_batch_norm_counted_before_says_so(tmp_path: Any, said: list[str]) -> None:
    def frozen() -> nn.Module:
        model = kit.tiny()
        model.bn2.requires_grad_(False)
        return model

    clat.train(kit.recipe(), tmp_path / "run", model=frozen(), data=kit.data(), quiet=True)
    file = tmp_path / "run" / "run.json"
    about = json.loads(file.read_text())
    assert about["model"].pop("frozen_statistics") == "kept"
    clat.resume(tmp_path / "run", model=frozen(), data=kit.data(), quiet=True)
    assert not any("went on counting" in one for one in said)
    file.write_text(json.dumps(about))
    clat.resume(tmp_path / "run", model=frozen(), data=kit.data(), quiet=True)
    assert any("went on counting the statistics of BatchNorm" in one for one in said)


@pytest.mark.parametrize(
    ("objective", "treatments"),
    [({"name": "pgd-at", "steps": 1}, [{"name": "lora", "stem": True}]), ({"name": "autolora"}, [])],
    ids=["lora", "autolora"],
)
def test_a_frozen_layer_is_not_selected_behind_low_rank_factors(
    objective: dict[str, Any], treatments: list[dict[str, Any]], tmp_path: Any
) -> None:
    """Factors rename the weight and add parameters that are not frozen."""
    stage = {"name": "low-rank", "epochs": 1, "objective": objective, "treatments": treatments}
    stage |= {"selection": {"rule": "random", "k": 2, "every": 1}}
    recipe = kit.recipe(stages=(build_recipe({"stages": [stage]}).stages[0],))
    model = kit.tiny()
    model.conv2.requires_grad_(False)
    clat.train(recipe, tmp_path / "run", model=model, data=kit.data(), quiet=True)
    assert set(kit.records(tmp_path / "run", "selection")[0]["layers"]) == {"conv1", "conv3"}


def test_what_came_in_frozen_is_not_drawn_anew(tmp_path: Any) -> None:
    drawn = {"name": "reinitialise", "modules": ["inner.conv2"]}
    stage = {"name": "on", "epochs": 1, "objective": {"name": "pgd-at"}, "treatments": [drawn]}
    recipe = kit.recipe(stages=(build_recipe({"stages": [stage]}).stages[0],))
    with pytest.raises(ClatError, match=r"reinitialise: 'inner\.conv2' came in frozen"):
        clat.train(recipe, tmp_path / "run", model=Owned(), data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()
