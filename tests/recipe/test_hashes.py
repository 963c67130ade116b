"""Runs from before there was a choice keep their hash, so that they can still be resumed and reused."""

from __future__ import annotations

import pytest

from clat.recipe.toml import build_recipe, recipe_hash

BEFORE = {
    "standard": ("6847bc7b82b3aa33", "55009f8f9a234d44"),
    "pgd-at": ("9c0680de7e83ca46", "bce83b7c0746df07"),
    "fast-at": ("8928f3923fb2decf", "663da251222066ee"),
    "free-at": ("930fc30688ce653c", "d887b210d9554f51"),
    "grad-align": ("2ee849b57034e1cd", "0711d43e91f52902"),
    "trades": ("033777aa3b9ceb2f", "1108201670d08954"),
    "mart": ("2b1d226dc5ffb4e3", "ab1435e1d9c8cbb2"),
    "score-at": ("ae19e853b560aea5", "1fd89310e7bbff44"),
    "score-trades": ("173c437c9e647bc0", "1087309e2bc922d9"),
    "cure": ("23f796f72a49a2b1", "ba09d850e697ad48"),
    "autolora": ("c37e374e47af6ee1", "d8d91c168fd82454"),
    "twins": ("4588d3c1e4d4abd8", "025d32c268660982"),
    "clat": ("849fcdb481a6de2e", "08ef1758feb6ecbe"),
    "clat-fast": ("464c3ab1bcad3cb9", "77ff7e04b249e57f"),
    "clat-plus": ("57db0a6a3d208dbc", "576febb60085295e"),
    "mixing": ("25e3ba6f48711588", "e7d98b2f89dfba7b"),
}
"""Objective -> the hashes of the whole recipe below and of its first stage, from before there were label smoothing
everywhere, eps schedules, warm-ups, optimizers other than SGD, micro-batches and checkpointed blocks."""


def recipe(name, stage=(), **more):
    """The objective at its defaults, with a schedule and an SGD of its stage's own, then plain training."""
    settings = {"name": "a", "epochs": 3, "objective": {"name": name}, "schedule": {"kind": "piecewise"}}
    settings |= {"optimizer": {"momentum": 0.8}} | ({"selection": {"k": 1}} if name.startswith("clat") else {})
    second = {"name": "b", "epochs": 2, "objective": {"name": "standard"}}
    stages = [settings | dict(stage), second]
    return build_recipe({"eps": "8/255", "engine": {"precision": "32"}, "stages": stages} | more)


@pytest.mark.parametrize("name", BEFORE)
def test_an_objective_at_its_defaults_hashes_as_it_always_did(name):
    found = recipe(name)
    assert (recipe_hash(found), recipe_hash(found, 1)) == BEFORE[name]


def test_a_new_setting_enters_the_hash_once_it_is_used():
    changes = [
        {"stage": {"objective": {"name": "pgd-at", "label_smoothing": 0.1}}},
        {"stage": {"eps_schedule": {}}},
        {"stage": {"schedule": {"kind": "piecewise", "warmup": 1.0}}},
        {"stage": {"schedule": {"kind": "one-cycle"}}},
        {"stage": {"schedule": {"kind": "one-cycle", "momentum": [0.95, 0.85]}}},
        {"stage": {"optimizer": {"momentum": 0.8, "clip_norm": 1.0}}},
        {"stage": {"optimizer": {"momentum": 0.8, "layer_decay": 0.5}}},
        {"stage": {"optimizer": {"momentum": 0.8, "decay_norms_and_biases": False}}},
        {"stage": {"optimizer": {"name": "adamw"}}},
        {"stage": {"optimizer": {"name": "adamw", "betas": [0.5, 0.6]}}},
    ]
    hashes = {recipe_hash(recipe("pgd-at", **change), 1) for change in changes} | {BEFORE["pgd-at"][1]}
    assert len(hashes) == len(changes) + 1
