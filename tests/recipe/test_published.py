"""The recipes of published methods: schedules, sizes and attacks as published, and their CLAT siblings."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from clat.core.threat_model import ThreatModel
from clat.models.normalize import STATISTICS, parse_normalize
from clat.objectives import Step
from clat.recipe.schedules import learning_rate
from clat.recipe.toml import built_in_recipes, read_recipe
from clat.treatments import EMA

# name: (network, eps, alpha, weight decay, learning rates after so many epochs)
PUBLISHED = {
    "pgd-at": ("resnet18", "8/255", 2 / 255, 5e-4, {0: 0.1, 99.99: 0.1, 100: 0.01, 104.99: 0.01, 105: 0.001}),
    "trades": ("wrn-34-10", "0.031", 0.007, 2e-4, {0: 0.1, 73.99: 0.1, 74: 0.01, 76: 0.01}),
    "mart": (
        "resnet18",
        "0.031",
        0.007,
        3.5e-3,
        {0: 0.01, 73.99: 0.01, 74: 1e-3, 88.99: 1e-3, 89: 1e-4, 98.99: 1e-4, 99: 1e-5},
    ),
    "score-at": ("preact-resnet18-bn", "8/255", 2 / 255, 5e-4, {99.99: 0.05, 100: 0.005, 104.99: 0.005, 105: 5e-4}),
    "score-trades": ("preact-resnet18-bn", "8/255", 2 / 255, 5e-4, {99.99: 0.05, 100: 0.005, 105: 5e-4}),
    "fast-at": ("preact-resnet18-raw", "8/255", 10 / 255, 5e-4, {0: 0.0, 3.75: 0.1, 7.5: 0.2, 11.25: 0.1, 15: 0.0}),
    "free-at": ("preact-resnet18-raw", "8/255", None, 5e-4, {0: 0.0, 5: 0.04, 7.5: 0.02, 10: 0.0}),
    "grad-align": ("preact-resnet18-raw", "8/255", 10 / 255, 5e-4, {0: 0.0, 6: 0.15, 12: 0.3, 21: 0.15, 30: 0.0}),
    "n-fgsm": ("preact-resnet18-raw-bn", "8/255", 8 / 255, 5e-4, {0: 0.0, 7.5: 0.1, 15: 0.2, 22.5: 0.1, 30: 0.0}),
    "gat": ("resnet18", "8/255", 8 / 255, 5e-4, {0: 0.1, 70.99: 0.1, 71: 0.01, 85.99: 0.01, 86: 0.001}),
    "fat": ("resnet18", "0.031", 0.007, 2e-4, {0: 0.1, 59.99: 0.1, 60: 0.01, 89.99: 0.01, 90: 0.001}),
    "awp": ("preact-resnet18-bn", "8/255", 2 / 255, 5e-4, {99.99: 0.1, 100: 0.01, 149.99: 0.01, 150: 0.001}),
    "trades-awp": ("wrn-34-10", "8/255", 2 / 255, 5e-4, {99.99: 0.1, 100: 0.01, 149.99: 0.01, 150: 0.001}),
    "swaat": ("preact-resnet18", "8/255", 2 / 255, 5e-4, {99.99: 0.1, 100: 0.01, 150: 0.001}),
    "idbh": ("preact-resnet18-raw-bn", "8/255", 2 / 255, 5e-4, {99.99: 0.1, 100: 0.01, 150: 0.001}),
}
EPOCHS = {"pgd-at": 110, "trades": 76, "mart": 120, "fast-at": 15, "free-at": 10, "grad-align": 30}
EPOCHS |= {"n-fgsm": 30, "gat": 100, "fat": 120}
EPOCHS |= dict.fromkeys(("awp", "trades-awp", "swaat", "idbh"), 200)
ATTACK_BN = dict.fromkeys(("score-at", "fast-at", "n-fgsm", "grad-align", "awp", "idbh"), "train")
RAW_INPUTS = ("trades", "mart", "grad-align", "trades-awp", "idbh", "gat", "fat")  # all others normalise
BATCH = {"gat": 64}
ONE_STEP = ("fast-at", "grad-align", "n-fgsm", "gat")
REFLECTED = ("pgd-at", "awp")  # all others pad with black


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_the_published_one(name):
    network, eps, alpha, decay, rates = PUBLISHED[name]
    recipe = read_recipe(name)
    (stage,) = recipe.stages
    assert (recipe.model.name, recipe.eps, recipe.batch_size) == (network, eps, BATCH.get(name, 128))
    assert stage.epochs == EPOCHS.get(name, 110)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, decay)
    for done, rate in rates.items():
        assert learning_rate(recipe.schedule, done, recipe.total_epochs) == pytest.approx(rate), done
    if alpha is not None:
        attack = stage.objective.attack(Step(threat=ThreatModel.parse(recipe.eps)))
        assert attack.step_size == pytest.approx(alpha)
        assert attack.steps == (1 if name in ONE_STEP else 10)
        assert stage.objective.attack_bn == ATTACK_BN.get(name, "eval")
    assert stage.bn_policy == "update"
    assert parse_normalize(recipe.model.normalize) in (
        (None, STATISTICS["identity"]) if name in RAW_INPUTS else (STATISTICS["cifar10"],)
    )
    assert recipe.data.padding_mode == ("reflect" if name in REFLECTED else "zeros")


def test_what_is_special_to_each():
    objectives = {name: read_recipe(name).stages[0].objective for name in PUBLISHED}
    assert (objectives["trades"].beta, objectives["mart"].beta, objectives["score-trades"].beta) == (6, 5, 6)
    assert (objectives["score-at"].clip, objectives["score-trades"].clip) == (0.4, 0.3)
    assert (objectives["score-at"].start, objectives["score-trades"].start) == ("uniform", "normal")
    assert objectives["free-at"].replays == 8
    assert [read_recipe(name).stages[0].treatments[0].gamma for name in ("awp", "trades-awp")] == [0.01, 0.005]
    assert read_recipe("wang2023").data.extra.fraction == read_recipe("peng2023").data.extra.fraction == 0.7
    assert objectives["n-fgsm"].noise == 2
    gat, fat = objectives["gat"], objectives["fat"]
    assert [gat.weight(Step(progress=Fraction(at, 100))) for at in (0, 85, 86, 99)] == [10, 10, 40, 40]
    assert [fat.tau_at(Step(progress=Fraction(at, 120))) for at in (0, 49, 50, 89, 90)] == [0, 0, 1, 1, 2]
    assert (objectives["grad-align"].lambda_, objectives["grad-align"].random_start) == (0.2, False)


def test_the_moving_averages_are_the_published_ones():
    gowal, li = (read_recipe(name) for name in ("ema", "idbh-wrn-34-10"))
    assert (gowal.model.name, gowal.batch_size, gowal.total_epochs) == ("dm-wrn-28-10", 1024, 400)
    assert learning_rate(gowal.schedule, 10, 400) == pytest.approx(0.4)
    assert (gowal.stages[0].objective.beta, gowal.stages[0].objective.start) == (6, "uniform")
    assert gowal.stages[0].treatments == (EMA(decay=0.995),)
    assert li.stages[0].treatments == (EMA(decay=0.999, start=0.0, ramp=False, batch_norm="reestimated"),)
    assert li.data.augment == "idbh-weak"


def test_the_gate_is_trained_before_clat_as_without_it():
    alone, both = read_recipe("mixture-gate"), read_recipe("mixture-gate-clat")
    assert (alone.model, alone.stages[0].objective) == (both.model, both.stages[0].objective)
    assert (alone.optimizer.weight_decay, both.optimizer.weight_decay) == (1e-5, 1e-5)


@pytest.mark.parametrize("name", [*PUBLISHED, "ema", "idbh-wrn-34-10"])
def test_its_clat_sibling_shares_the_first_half_and_the_budget(name):
    """But for Fast-AT's, which has the budget of the longer published run, 30 epochs."""
    alone, both = read_recipe(name), read_recipe(f"{name}-clat")
    assert f"{name}-clat" in built_in_recipes()
    first, second = both.stages
    of_the_stage = {"gat": ("late",), "fat": ("tau_rises",)}.get(name, ())  # parts of it, at the same epochs
    rises = {field: getattr(first.objective, field) for field in of_the_stage}
    assert (first.objective, first.name) == (replace(alone.stages[0].objective, **rises), alone.stages[0].name)
    assert both.total_epochs == (30 if name == "fast-at" else alone.total_epochs)
    assert first.epochs == second.epochs
    assert second.objective.name in ("clat", "clat-fast")
    assert second.selection is not None
    assert first.schedule is None
    assert second.schedule is None
    same = ("eps", "norm", "batch_size", "model", "data", "schedule", "optimizer", "monitor", "engine")
    assert all(getattr(alone, field) == getattr(both, field) for field in same)
