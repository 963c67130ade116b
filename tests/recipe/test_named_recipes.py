"""Every recipe that the package, its README and its pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clat
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
