"""`clat study`: tables of recipes."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from clat.cli.console import console, say, show
from clat.cli.options import SAMPLE, folder
from clat.cli.places import add_place_options, place_for
from clat.core.errors import ClatError
from clat.core.formatting import counted

HELP = "run a table of recipes under one budget, row by row"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat study`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("study", nargs="?", help="its name (see --list)")
    parser.add_argument(
        "--scale", help="how large: see --list (default: that of the folder, in a new one the study's first)"
    )
    parser.add_argument(
        "--out", type=folder, metavar="DIR", help="the study's folder; the same one goes on where it was stopped"
    )
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these, and what they build on")
    parser.add_argument(
        "--list", action="store_true", help="list the studies and their scales; beside a STUDY, its rows"
    )
    parser.add_argument("--judge", metavar="PROTOCOL", help="measure the rows on held-out images, to choose by")
    parser.add_argument("--finals", metavar="PROTOCOL", help="measure the rows on the test split: once, at the end")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one network, in the process that --jobs starts
    parser.add_argument(
        "--num-samples",
        type=int,
        help=f"of --judge and --finals: {SAMPLE} (default: all)",
    )
    add_place_options(parser, "rows")
    parser.add_argument(
        "--precision", help="of the searches of --judge and --finals: float32, bfloat16 (default: float32)"
    )


def run(options: argparse.Namespace) -> int:
    """Run a study or go on with it, show the table, and write table.json, table.md and study.html.

    With --judge or --finals, measure what it trained, on held-out images or on the test split.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 1 if a row did not finish.

    Raises:
        ClatError: If study, scale, row or folder cannot be what is meant.
    """
    if options.measure is not None:
        from clat.studies.measurement import measure_here

        measure_here(options.measure, console())
        return 0
    if options.judge is None and options.finals is None:
        for name in ("num-samples", "precision"):
            if getattr(options, name.replace("-", "_")) is not None:
                raise ClatError(f"--{name} belongs to --judge and --finals; rows are trained as the study says")
    if options.list or options.study is None:
        return _list(options.study)
    from clat.studies import find_study

    if options.num_samples is not None:
        from clat.core.checks import at_least

        at_least("--num-samples", options.num_samples, 1)
    study = find_study(options.study)  # a slip in the name is told before the rest is loaded
    from clat.studies.collect import rich_table
    from clat.studies.finals import finals_table, run_finals
    from clat.studies.page import write_study_page
    from clat.studies.row import chosen, seeded
    from clat.studies.run import check_study, run_study
    from clat.studies.tables.groups import group_table
    from clat.training.interrupt import Interrupted

    asked = None if options.scale is None else study.at(options.scale)
    if options.out is None:
        raise ClatError("clat study needs --out, the folder of its runs")
    out = Path(options.out)
    scale = check_study(study, asked, out) or asked or study.scales[0]
    every = seeded(study.rows(scale, out), scale.seeds)
    if options.judge is not None and options.finals is not None:
        raise ClatError("clat study takes --judge or --finals, not both: choose first, on held-out images")
    if options.judge is not None or options.finals is not None:
        try:
            with place_for(options, out) as place:
                finals = run_finals(
                    every,
                    out,
                    console(),
                    names=options.rows,
                    protocol=options.finals or options.judge,
                    split="heldout" if options.finals is None else "test",
                    num_samples=options.num_samples,
                    precision=options.precision or "float32",
                    place=place,
                )
        except Interrupted as stopped:
            return stopped.exit_code
        show(finals_table(finals))
        return 0
    try:
        with place_for(options, out) as place:
            table = run_study(study, scale, chosen(every, options.rows), out, console(), place)
    except Interrupted as stopped:
        return stopped.exit_code
    show(group_table(table) if table["groups"] else rich_table(table))
    say(f"wrote {write_study_page(table, out)}")
    return int(any(row["status"] != "finished" for row in table["rows"]))


def _list(name: str | None) -> int:
    """List all studies with the number of their rows, or one with its rows."""
    from clat.studies import STUDIES, find_study

    for study in STUDIES.values() if name is None else [find_study(name)]:
        say(f"{study.name}: {study.title}", style="bold")
        for scale in study.scales:
            rows = [row.name for row in study.rows(scale, Path("OUT"))]
            about = f"  {scale.name}, {counted(scale.epochs, 'epoch')}: "
            say(about + counted(len(rows), "row") if name is None else _wrapped(about, ", ".join(rows)))
    if name is None:
        say("clat study NAME --list: the rows of one; clat study NAME --out DIR: run it")
    return 0


def _wrapped(about: str, text: str) -> str:
    """Return a list in lines as long as the console's, which break at spaces alone."""
    return textwrap.fill(
        text, width=min(console().width, 100), initial_indent=about, subsequent_indent=" " * 4,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
