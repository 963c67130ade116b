"""`clat report`: the page of a run, or an index over many."""

from __future__ import annotations

import argparse
from pathlib import Path

from clat.cli.console import say
from clat.core.errors import ClatError

HELP = "draw a run's page, DIR/report.html; of several runs an index"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat report`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.usage = "clat report DIR [--against DIR ...] [--out FILE]\n       clat report DIR DIR ... [--out FILE]"
    parser.add_argument("runs", nargs="+", metavar="DIR", help="the folder of a run; several: an index over them")
    parser.add_argument("--against", nargs="+", default=[], metavar="DIR", help="runs to compare one with")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the page (default: DIR/report.html; of an index, index.html above the runs); replaces an older one",
    )


def run(options: argparse.Namespace) -> int:
    """Draw the page of a run, or an index over several.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If a folder holds no run, or the page cannot be written or would replace another file.
    """
    out = None if options.out is None else Path(options.out)
    if len(options.runs) == 1:
        from clat.report.page import write_report

        against = [Path(other) for other in options.against]
        say(f"wrote {write_report(Path(options.runs[0]), against=against, out=out)}")
        return 0
    if options.against:
        raise ClatError("--against goes with one run; several without it make an index")
    from clat.report.index import write_index

    path, left_out = write_index([Path(one) for one in options.runs], out)
    for line in left_out:
        say(f"note: left out: {line}")
    say(f"wrote {path}")
    return 0
