"""`clat train`: run or resume a recipe, then draw its page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clat.cli.console import only_json, print_json, say
from clat.cli.options import add_json_option, add_logger_option, changed_options, folder, logger_field
from clat.cli.recipes import list_recipes
from clat.core.errors import ClatError

if TYPE_CHECKING:
    from clat.training.run import Result

HELP = "run a recipe"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat train`, but for the recipe and its fields: see `take_rest`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.usage = "clat train RECIPE --out DIR [options] [--FIELD VALUE ...]\n       clat train --resume DIR"
    parser.description = (
        "RECIPE: a recipe file, or the name of a built-in recipe (see --list). Any field of it can be "
        "given: --stages.clat.epochs 5 --data.train_size 2000 --seed 1"
    )
    parser.add_argument("--out", type=folder, metavar="DIR", help="a new folder for the run")
    parser.add_argument("--resume", metavar="DIR", help="go on with a run that was stopped")
    parser.add_argument("--reuse", metavar="DIR", help="take over the stages that the run in DIR has in common")
    parser.add_argument("--device", help="cpu, cuda, auto: short for --engine.device")
    parser.add_argument("--devices", help="processes, one a device: short for --engine.devices")
    parser.add_argument("--precision", help="auto, float32 (or 32), bfloat16: short for --engine.precision")
    parser.add_argument("--compile", action="store_true", help="short for --engine.compile true")
    add_logger_option(parser)
    parser.add_argument("--list", action="store_true", help="list the built-in recipes")
    add_json_option(parser, "summary and test results")


def take_rest(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Set `recipe` and `overrides` from the words that the parser left over.

    Fields are given as --FIELD VALUE or --FIELD=VALUE, in any order, before or after the recipe. argparse, which
    does not know the fields, would take the first value for the recipe.

    Args:
        options: what the parser read; both are set here.
        words: what it left over.

    Raises:
        ClatError: If a word is neither the recipe nor a field or its value.
    """
    recipe: str | None = None
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            overrides.append(word)
            if "=" not in word and rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
        elif word.startswith("-") or (_ASSIGNMENT.match(word) and not Path(word).is_file()):
            raise ClatError(f"unexpected argument '{word}': did you mean --{word.lstrip('-')}?")
        elif recipe is not None:
            raise ClatError(f"unexpected argument '{word}': '{recipe}' is the recipe (see clat train --help)")
        else:
            recipe = word
    options.recipe, options.overrides = recipe, overrides


_ASSIGNMENT = re.compile(r"[\w.-]+=")


def run(options: argparse.Namespace) -> int:
    """Train a recipe or go on with a run, evaluate and draw the page; with --list, list the recipes.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 130 or 143 if the run was stopped.

    Raises:
        ClatError: If recipe or folder is missing, or the recipe cannot be trained.
    """
    if options.list:
        return list_recipes(as_json=options.json)
    if options.resume is not None:
        if options.recipe or options.overrides or changed_options(options, add_options, but=("resume", "json")):
            raise ClatError("--resume goes on with the recipe in the run's folder: give nothing beside it")
        from clat.training.run import resume

        return _finish(lambda: resume(options.resume, quiet=options.quiet), options.json)
    if options.recipe is None or options.out is None:
        raise ClatError("name a recipe and a new folder: clat train RECIPE.toml --out DIR (or --resume DIR)")
    from clat.recipe.source import Origin, read_source

    words = [*options.overrides, *_short(options)]
    data = read_source(options.recipe, words)
    from clat.recipe.toml import build_recipe

    recipe = build_recipe(data, Origin(options.recipe, words))
    from clat.training.run import train

    return _finish(lambda: train(recipe, options.out, reuse=options.reuse, quiet=options.quiet), options.json)


def _short(options: argparse.Namespace) -> list[str]:
    """Return the overrides that the options for the engine are short for."""
    words = []
    for name in ("device", "devices", "precision"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--engine.{name}", f'"{value}"' if name == "precision" else value]
    words += logger_field(options)
    return words + (["--engine.compile", "true"] if options.compile else [])


def _finish(train: Callable[[], Result], as_json: bool) -> int:
    """Run to the end and draw the page; a stopped run returns its exit code."""
    from clat.runtime.engine import is_first_process
    from clat.training.interrupt import Interrupted

    try:
        with only_json(as_json):
            result = train()
    except Interrupted as stopped:
        # The first process speaks for all; where another fails, the launcher kills it.
        return stopped.exit_code if is_first_process() else 0
    if not is_first_process():
        return 0
    if result.evaluations:
        from clat.report.page import write_report

        say(f"wrote {write_report(result.out)}")
    if as_json:
        about = {"what": "run", "out": str(result.out)}
        print_json({**about, "summary": result.summary, "evaluations": result.evaluations})
    return 0
