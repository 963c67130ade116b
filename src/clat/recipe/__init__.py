"""A run's settings: the schema, TOML files, learning-rate schedules and the built-in recipes."""

from clat.recipe.schema import Recipe
from clat.recipe.toml import build_recipe, built_in_recipes, read_recipe, recipe_hash, recipe_toml

__all__ = ["Recipe", "build_recipe", "built_in_recipes", "read_recipe", "recipe_hash", "recipe_toml"]
