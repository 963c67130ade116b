"""`clat recipes`: the built-in recipes, and all that one of them says."""

from __future__ import annotations

import argparse

from clat.cli.console import print_json, say
from clat.cli.options import add_json_option

HELP = "list the built-in recipes, or show one in full"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat recipes`.

    Args:
        parser: the command's parser, changed in place.
    """
    add_json_option(parser, "the list")
    parser.set_defaults(alone="lists the built-in recipes")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    show = actions.add_parser(
        "show",
        help="every field of a recipe: value, type, default, meaning",
        description="Prints TOML that can be changed and trained: clat recipes show demo > mine.toml",
    )
    show.add_argument("recipe", metavar="NAME", help="a built-in recipe, or a recipe file")
    # Without a default of its own, which would undo a --json before the action.
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the fields and values alone")


def run(options: argparse.Namespace) -> int:
    """List the built-in recipes, or show one in full.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If there is no such recipe, or it cannot be read.
    """
    if options.action is None:
        return list_recipes(as_json=options.json)
    from clat.recipe.source import Origin, read_source

    data = read_source(options.recipe)  # a slip in the name is told before the rest is loaded
    from clat.recipe.explain import explained_recipe
    from clat.recipe.toml import build_recipe, recipe_data

    recipe = build_recipe(data, Origin(options.recipe))
    if options.json:
        print_json(recipe_data(recipe))
    else:
        say(explained_recipe(recipe).rstrip())
    return 0


def list_recipes(*, as_json: bool = False) -> int:
    """Print the built-in recipes in groups, a line each.

    Args:
        as_json: as an object of groups, each of names and lines.

    Returns:
        The exit status: 0.
    """
    from clat.recipe.catalogue import grouped_recipes

    if as_json:
        print_json(grouped_recipes())
        return 0
    for group, recipes in grouped_recipes().items():
        say(f"{group}:", style="bold")
        for name, line in recipes.items():
            say(f"{name:24} {line}")
        say("")
    say("clat recipes show NAME: every field of one; clat train NAME --out DIR: run it")
    return 0
