"""The share of eps at each place of a stage, exactly, and what a recipe may say of it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from clat.core.errors import ClatError
from clat.recipe.eps_schedule import EpsSchedule
from clat.recipe.toml import build_recipe, recipe_hash, recipe_toml


def built(schedule, objective="pgd-at"):
    stage = {"name": "a", "epochs": 4, "objective": {"name": objective}}
    return build_recipe({"stages": [stage | ({} if schedule is None else {"eps_schedule": schedule})]})


@pytest.mark.parametrize(
    ("settings", "progress", "share"),
    [
        ({}, "0", "0"),
        ({}, "3/8", "1/2"),
        ({}, "3/4", "1"),
        ({}, "99/100", "1"),
        ({"from_": "1/4", "until": 1}, "0", "1/4"),
        ({"from_": "1/4", "until": 1}, "1/3", "1/2"),
        ({"from_": 0.1, "until": "1/3"}, "1/9", "2/5"),
        ({"from_": 1}, "0", "1"),
    ],
)
def test_the_share_is_exact(settings, progress, share):
    assert EpsSchedule(**settings).share(Fraction(progress)) == Fraction(share)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ({"from": 2}, "eps_schedule.from is 2: expected a share of eps, from 0 to 1"),
        ({"from": -1}, "eps_schedule.from is -1"),
        ({"from": "half"}, "eps_schedule.from is 'half'"),
        ({"until": 0}, "eps_schedule.until is 0: expected a part of the stage, above 0 to 1"),
        ({"until": 30}, "eps_schedule.until is 30"),
        ({"form": 0.5}, "unknown field 'stages.a.eps_schedule.form'; did you mean 'from'?"),
        (0.5, "stages.a.eps_schedule: expected a table"),
        ({"from": True}, "expected no truth value"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(schedule, says):
    with pytest.raises(ClatError) as caught:
        built(schedule)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_objective_without_an_attack_has_none():
    with pytest.raises(ClatError, match="stage 'a': 'standard' has no attack for an eps_schedule"):
        built({}, "standard")


def test_it_is_written_under_its_own_name_and_enters_the_hash():
    recipe = built({"from": "1/8", "until": 0.5})
    assert 'from = "1/8"' in recipe_toml(recipe)
    hashes = {recipe_hash(built(schedule)) for schedule in (None, {}, {"from": 0.5}, {"until": 0.5})}
    assert len(hashes) == 4
