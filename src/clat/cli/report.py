"""`clat report`: the page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from clat.cli.console import say

HELP = "draw a run's page, DIR/report.html"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat report`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("run", metavar="DIR", help="the folder of a run")
    parser.add_argument("--against", nargs="+", default=[], metavar="DIR", help="runs to compare with")


def run(options: argparse.Namespace) -> int:
    """Draw the page of a run.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If a folder holds no run, or the page cannot be written.
    """
    from clat.report.page import write_report

    path = write_report(Path(options.run), against=[Path(other) for other in options.against])
    say(f"wrote {path}")
    return 0
