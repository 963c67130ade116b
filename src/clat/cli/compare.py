"""`clat compare`: two results sample by sample, or seeds against seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from clat.cli.console import say, show
from clat.cli.options import add_result_option
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError

if TYPE_CHECKING:
    from clat.evaluation.compare import Comparison, SeedComparison

HELP = "results of clat evaluate: two networks, or several seeds"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat compare`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("results", nargs="*", metavar="FILE", help="A.json B.json: B less A, on the same samples")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="FILE", help="mean, deviation, lowest of these")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE", help="with --seeds: a second group")
    add_result_option(parser)


def run(options: argparse.Namespace) -> int:
    """Compare results, show the table, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If the results are missing, or were not measured alike.
    """
    outputs = Outputs(options.out)
    result = _compared(options)
    for note in result.notes:
        say(f"note: {note}")
    show(result.table())
    outputs.write(result)
    return 0


def _compared(options: argparse.Namespace) -> Comparison | SeedComparison:
    if options.seeds and options.results:
        raise ClatError("give either two results, A.json B.json, or --seeds A1.json A2.json ...")
    if options.against and not options.seeds:
        raise ClatError("--against goes with --seeds: clat compare --seeds A1.json ... --against B1.json ...")
    if not options.seeds and len(options.results) != 2:
        raise ClatError("give two results, A.json B.json; several of one network's seeds go with --seeds")
    from clat.evaluation.compare import compare, compare_seeds

    if not options.seeds:
        return compare(*options.results)
    found = compare_seeds(options.seeds, options.against)
    return replace(found, notes=(*found.notes, *_recipe_notes(options.seeds), *_recipe_notes(options.against)))


def _recipe_notes(files: Sequence[str]) -> list[str]:
    from clat.evaluation import EvaluationRecord
    from clat.evaluation.same_run import run_of
    from clat.report.recipe_differences import seed_notes

    runs = [(file, run_of(file, EvaluationRecord.from_json(file))) for file in files]
    return seed_notes([(file, run) for file, run in runs if run is not None])
