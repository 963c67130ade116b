"""What a row costs beside others: ratios that follow from its recipe."""

from __future__ import annotations

import json
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from clat.models.settings import ModelConfig
from clat.objectives import AnyObjective
from clat.recipe.data_settings import DataConfig
from clat.studies.beside import last_epoch, row_costs
from clat.studies.cost import UNKNOWN, evaluation_cost, pass_cost, stage_costs, step_passes
from clat.studies.row import Row
from helpers.studies import TINY, tiny_rows

COUNTED = Path("docs/results/benchmarks/objective_cost.json")


def recipe(**changes):
    return replace(tiny_rows(TINY)[1].recipe, **changes)


@pytest.mark.parametrize("objective", typing.get_args(typing.get_args(AnyObjective)[0]), ids=lambda one: one.name)
def test_passes_are_those_that_are_counted(objective):
    rows = json.loads(COUNTED.read_text())["rows"]
    found = step_passes(objective())
    assert found > 0
    if objective.name in rows:
        near = 0.25 if objective.needs_selection else 0.03
        assert found == pytest.approx(rows[objective.name]["equivalents"], rel=near)


def test_a_row_costs_its_epochs_images_passes_and_operations():
    one = recipe()
    assert stage_costs(one)[0] == 64 * 1 * 5 * pass_cost(one)  # PGD-AT of one step: 2 + 3 passes
    longer = replace(one, stages=(replace(one.stages[0], epochs=7), *one.stages[1:]))
    assert stage_costs(longer)[0] == 7 * stage_costs(one)[0]
    more = recipe(data=DataConfig(name="digits", train_size=640, heldout=32))
    assert stage_costs(more)[0] == 10 * stage_costs(one)[0]
    every = recipe(data=DataConfig(name="digits", heldout=97))
    assert stage_costs(every)[0] == 1200 / 64 * stage_costs(one)[0]
    wider = recipe(model=ModelConfig(name="resnet18", width=8))
    assert stage_costs(wider)[0] == pytest.approx(4 * stage_costs(one)[0], rel=0.1)


def test_resnet18_on_images_of_32_pixels_takes_its_known_operations():
    """0.56 billion multiplications; the data are not there, so that they count as CIFAR-10."""
    one = recipe(model=ModelConfig(name="resnet18"), data=DataConfig(name="nowhere-at-all"))
    assert pass_cost(one) == pytest.approx(1.11e9, rel=0.01)


def test_a_network_that_cannot_be_counted_has_a_size_all_the_same():
    assert pass_cost(recipe(model=ModelConfig(name="nowhere.nets:build"))) == UNKNOWN


def test_an_evaluation_costs_its_images_and_passes():
    one = recipe()
    assert evaluation_cost(one, "pgd-20", 40) == 40 * 41 * pass_cost(one)
    assert evaluation_cost(one, "pgd-20", None) == 250 * evaluation_cost(one, "pgd-20", 40)
    assert evaluation_cost(one, "autoattack", 40) > 100 * evaluation_cost(one, "pgd-20", 40)


def test_what_is_taken_over_or_done_already_is_left_out(tmp_path):
    one = recipe()
    whole = sum(stage_costs(one))
    row = Row("row", one)
    assert row_costs(row, 0, tmp_path) == (whole, 0)
    own, taken = row_costs(row, 1, tmp_path)
    assert (own + taken, taken) == (whole, stage_costs(one)[0])
    assert last_epoch(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"event": "epoch", "epoch": 1}) + "\n")
    assert last_epoch(tmp_path) == 1
    assert row_costs(row, 0, tmp_path)[0] == own
