"""A selection that may choose only layers of which a method moves nothing is refused before the run."""

from __future__ import annotations

from typing import Any

import pytest

import clat
from clat.core.errors import ClatError
from clat.recipe.toml import build_recipe
from helpers import runs as kit


@pytest.mark.parametrize("selection", [{"rule": "random", "k": 1, "every": 1}, {"rule": "all"}])
def test_a_selection_of_layers_of_which_nothing_moves_is_refused_before_the_run(
    selection: dict[str, Any], tmp_path: Any
) -> None:
    tune = {"name": "tune", "epochs": 1, "objective": {"name": "cure", "steps": 1}}
    last = build_recipe({"stages": [{**tune, "selection": {**selection, "classifier": True}}]}).stages[0]
    recipe = kit.recipe(stages=(kit.pgd_at(1), last))
    if selection["rule"] == "all":
        clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
        return
    with pytest.raises(ClatError, match="'cure' finds nothing to move in head"):
        clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()
