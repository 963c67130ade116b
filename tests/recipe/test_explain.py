"""A recipe in full: TOML that reads back equal, with every field, type, default and doc; and the groups of the
list."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from clat.recipe.catalogue import CLAT_ALONE, SMALL, THEN_CLAT, WITHOUT, grouped_recipes
from clat.recipe.explain import explained_recipe
from clat.recipe.schema import DataConfig, MonitorConfig
from clat.recipe.toml import build_recipe, built_in_recipes, read_recipe


@pytest.mark.parametrize("name", built_in_recipes())
def test_a_recipe_in_full_reads_back_equal(name):
    recipe = read_recipe(name)
    text = explained_recipe(recipe)
    assert build_recipe(tomllib.loads(text)) == recipe
    assert not [line for line in text.splitlines() if line.startswith("#") and len(line) > 116 and " =" not in line]


def test_every_field_is_there_with_type_default_and_doc():
    lines = explained_recipe(read_recipe("demo")).splitlines()
    for name in (field.name for cls in (DataConfig, MonitorConfig) for field in dataclasses.fields(cls)):
        if name not in ("extra", "imagenet"):  # tables of their own
            assert any(line.removeprefix("# ").startswith(f"{name} =") for line in lines), name
    assert all(any(line.startswith(f"# [data.{name}]") for line in lines) for name in ("extra", "imagenet"))
    assert 'eps = "0.1"  # number or fraction such as "8/255", default "8/255"' in lines
    assert "heldout = 200  # whole number, default 1000" in lines
    assert "# train_size =  # whole number, or none, default none" in lines
    assert 'padding_mode = "zeros"  # "zeros" or "reflect", default "zeros"' in lines
    assert "epochs = 6  # whole number, required" in lines
    assert lines[lines.index("every = 2  # whole number, default 10") - 1].endswith("the fixed selection.")
    assert any(line.startswith("# [data.extra] is not there.") for line in lines)
    assert any("One of: awp, ema" in line for line in lines)


def test_another_optimizer_keeps_its_arguments_beside_its_name():
    words = [
        "--optimizer",
        '{ name = "adamw", betas = [0.9, 0.95], clip_norm = 1.0 }',
        "--stages.0.eps_schedule",
        "{}",
    ]
    recipe = read_recipe("demo", words)
    text = explained_recipe(recipe)
    assert build_recipe(tomllib.loads(text)) == recipe
    assert "betas = [0.9, 0.95]" in text.splitlines()
    assert any(line.startswith("from = 0  # number or fraction") for line in text.splitlines())


def test_fields_that_are_inherited_keep_their_doc():
    text = explained_recipe(read_recipe("pgd-at-clat-plus"))
    inner = text[text.index('name = "clat-plus"') :]
    assert "# The weight of L_C, given directly" in inner


def test_groups_hold_every_recipe_once():
    groups = grouped_recipes()
    assert list(groups) == [SMALL, CLAT_ALONE, THEN_CLAT, WITHOUT]
    assert sorted(name for group in groups.values() for name in group) == sorted(built_in_recipes())
    assert {"demo", "demo-pgd-at", "cifar10-narrow"} <= groups[SMALL].keys()
    assert groups[CLAT_ALONE].keys() == {"clat-finetune", "clat-plus-finetune", "mixture-clat"}
    assert {"trades-clat", "cifar10-resnet18"} <= groups[THEN_CLAT].keys()
    assert {"trades", "rift", "cifar10-resnet18-pgd-at"} <= groups[WITHOUT].keys()
    assert groups[SMALL]["demo-pgd-at"].startswith("The control of the demo")


def test_arguments_of_a_network_read_back():
    recipe = build_recipe(
        {
            "model": {"name": "timm:resnet18", "args": {"img_size": 64, "drop_rate": 0.1, "a b": ["x"]}},
            "stages": [{"name": "a", "epochs": 1, "objective": {"name": "pgd-at"}}],
        }
    )
    text = explained_recipe(recipe)
    assert build_recipe(tomllib.loads(text)) == recipe
    assert 'args = { img_size = 64, drop_rate = 0.1, "a b" = ["x"] }  # table, or none' in text
