"""Every recipe that the package, its README and its pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clat
from clat.objectives import Step
from clat.recipe.toml import built_in_recipes

PACKAGE = Path(clat.__file__).parent
ROOT = PACKAGE.parent.parent
NAMED = re.compile(r"""clat train ([a-z0-9]+(?:-[a-z0-9]+)+)|\b(?:train|read_recipe)\(\s*["']([a-z0-9-]+)["']""")
"""A recipe given to the command, if its name cannot be an ordinary word, or to a function."""


def named() -> list[tuple[str, str]]:
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(
        {
            (str(file.relative_to(ROOT)), next(filter(None, found.groups())))
            for file in files
            for found in NAMED.finditer(file.read_text())
        }
    )


@pytest.mark.parametrize(("file", "name"), named())
def test_a_named_recipe_exists(file: str, name: str) -> None:
    assert name in built_in_recipes(), file


def test_the_search_finds_them() -> None:
    assert {"cifar10-resnet18", "clat-finetune"} <= {name for _, name in named()}


def test_the_papers_setting_has_the_papers_schedule() -> None:
    recipe = clat.read_recipe("cifar10-resnet18")
    rates = [recipe.learning_rate(0, 50), recipe.learning_rate(1, 70), recipe.learning_rate(1, 100)]
    assert rates == pytest.approx([0.075, 0.0552, 0.025], abs=1e-4)
    assert recipe.stages[1].selection is not None
    assert recipe.stages[1].selection.ranking.alpha == "0.007"


@pytest.mark.parametrize("name", ["gat", "fat"])
def test_before_clat_a_method_does_in_an_epoch_what_it_does_in_it_alone(name: str) -> None:
    whole, half = (clat.read_recipe(one).stages[0] for one in (name, f"{name}-clat"))

    def found(stage: clat.recipe.schema.StageConfig, epoch: int) -> float:
        step = Step(progress=epoch / stage.epochs)
        objective = stage.objective
        return objective.weight(step) if name == "gat" else objective.tau_at(step)  # type: ignore[union-attr]

    assert half.epochs == whole.epochs // 2
    assert [found(half, epoch) for epoch in range(half.epochs)] == [
        found(whole, epoch) for epoch in range(half.epochs)
    ]
