"""Layers that a step does not run, as where a branch is left out by chance: nothing moves, and nothing breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.objectives import Clat, Cure, PgdAT, Standard, Trades
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig
from clat.treatments import AWP
from helpers import runs as kit


class Stochastic(nn.Module):
    """A residual branch that training leaves out with the given chance."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance
        self.stem, self.branch, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if not self.training or torch.rand(()) >= self.chance:
            x = x + F.relu(self.branch(x))
        return self.head(x.mean((2, 3)))


def stochastic(chance: float) -> Stochastic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Stochastic(chance)


SELECTED = Selection(rule="named", layers=("branch",), every=0)
STAGES: dict[str, dict[str, Any]] = {
    "standard": {"objective": Standard()},
    "pgd-at": {"objective": PgdAT(steps=1)},
    "trades": {"objective": Trades(steps=1)},
    "awp": {"objective": PgdAT(steps=1), "treatments": (AWP(gamma=0.1),)},
    "cure": {"objective": Cure(steps=1)},
    "cure by the whole gradient": {"objective": Cure(steps=1, prominence="total")},
}


@pytest.mark.parametrize("chance", [0.5, 1.0])
@pytest.mark.parametrize("name", STAGES)
def test_a_branch_by_chance(name: str, chance: float, tmp_path: Path) -> None:
    stage = StageConfig(name="only", epochs=2, selection=SELECTED, **STAGES[name])
    model, before = stochastic(chance), stochastic(chance).state_dict()
    result = clat.train(kit.recipe(stages=(stage,)), tmp_path / "run", model=model, data=kit.data(), quiet=True)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == (set() if chance == 1 else {"branch.weight", "branch.bias"})
    shares = [record["parts"].get("without_gradient", 0.0) for record in kit.records(tmp_path / "run", "epoch")]
    assert all((share == 1) == (chance == 1) for share in shares)
    warnings = result.summary["warnings"]
    assert len(warnings) == (chance == 1), "said once a stage"
    assert all("no step reached what the stage moves" in warning for warning in warnings)


def test_no_word_of_it_where_every_step_reaches_the_layer(tmp_path: Path) -> None:
    stage = StageConfig(name="only", epochs=1, selection=SELECTED, objective=PgdAT(steps=1))
    result = clat.train(
        kit.recipe(stages=(stage,)), tmp_path / "run", model=stochastic(0.0), data=kit.data(), quiet=True
    )
    assert result.summary["warnings"] == []
    assert "without_gradient" not in kit.records(tmp_path / "run", "epoch")[0]["parts"]


def test_clat_whose_feature_does_not_run_says_which(tmp_path: Path) -> None:
    stage = StageConfig(name="only", epochs=1, selection=SELECTED, objective=Clat(steps=1))
    recipe, model = kit.recipe(stages=(stage,)), stochastic(1.0)
    with pytest.raises(ClatError, match=r"layer 'branch' did not run in a forward pass.*exclude it"):
        clat.train(recipe, tmp_path / "run", model=model, data=kit.data(), quiet=True)


def test_of_several_processes_the_one_without_a_gradient_adds_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of all have to be of one size."""
    engine = Engine(EngineConfig(device="cpu"))
    here, there, nowhere = (nn.Parameter(torch.ones(2)) for _ in range(3))
    here.grad = torch.full((2,), 4.0)
    monkeypatch.setattr(Engine, "world", property(lambda self: 2))
    monkeypatch.setattr(engine, "total", lambda counts: counts + torch.tensor([1, 1, 0]))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat, async_op: Mock())
    engine.average_gradients([here, there, nowhere])
    assert here.grad.tolist() == [2.0, 2.0]
    assert there.grad is not None
    assert there.grad.tolist() == [0.0, 0.0]
    assert nowhere.grad is None
