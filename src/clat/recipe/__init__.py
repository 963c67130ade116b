"""A run's settings: the schema, TOML files, learning-rate schedules and the built-in recipes.

Names are loaded when they are first used: the schema needs torch, the names of the built-in recipes do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clat.recipe.schema import Recipe
    from clat.recipe.source import built_in_recipes
    from clat.recipe.toml import build_recipe, read_recipe, recipe_hash, recipe_toml

__all__ = ["Recipe", "build_recipe", "built_in_recipes", "read_recipe", "recipe_hash", "recipe_toml"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'clat.recipe' has no attribute '{name}'")
    home = {"Recipe": "schema", "built_in_recipes": "source"}.get(name, "toml")
    return getattr(import_module(f"clat.recipe.{home}"), name)
