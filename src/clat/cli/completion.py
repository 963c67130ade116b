"""`clat completion`: a script with which a shell completes commands, options, files and recipes."""

from __future__ import annotations

import argparse
from importlib import import_module

from clat.core.errors import ClatError

HELP = "print a completion script for bash or zsh"

SHELLS = ("bash", "zsh")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat completion`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.description = (
        "bash: clat completion bash > ~/.local/share/bash-completion/completions/clat; "
        "zsh: clat completion zsh > a folder of $fpath, as _clat"
    )
    parser.add_argument("shell", choices=SHELLS)


def run(options: argparse.Namespace) -> int:
    """Print the completion script of a shell.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If shtab is not installed.
    """
    try:
        shtab = import_module("shtab")
    except ImportError:
        raise ClatError("completion scripts are made by shtab: pip install shtab") from None
    from clat.cli import COMMANDS
    from clat.cli.parser import build_parser
    from clat.recipe.source import built_in_recipes

    parser = build_parser(COMMANDS)
    recipes = tuple(built_in_recipes())
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    # The recipe of `clat train` is taken from what its parser leaves over; here it is told of it.
    commands.choices["train"].add_argument("recipe", nargs="?", choices=recipes)
    for one in _parsers(parser):
        for action in one._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest == "recipe":
                action.choices = recipes
    print(shtab.complete(parser, options.shell))
    return 0


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and those of all its commands."""
    below = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return [parser, *(inner for one in below for choice in one.choices.values() for inner in _parsers(choice))]
