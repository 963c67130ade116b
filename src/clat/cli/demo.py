"""`clat demo`: digits, PGD-AT then CLAT, against PGD-AT alone with the same budget."""

from __future__ import annotations

import argparse
from pathlib import Path

from clat.cli.console import say
from clat.cli.options import folder
from clat.core.errors import ClatError

HELP = "CLAT on handwritten digits, end to end, in about a minute"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--out", default="demo", type=folder, metavar="DIR", help="a new folder (default: demo)")


def run(options: argparse.Namespace) -> int:
    """Train both and draw their page."""
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClatError(f"{out} exists already: name a new folder with --out, or remove it")
    from clat.recipe.toml import read_recipe
    from clat.report.page import write_report
    from clat.training.interrupt import Interrupted
    from clat.training.run import train

    runs: list[Path] = []
    for name in ("demo", "demo-pgd-at"):
        say(f"\nrecipe {name}", style="bold")
        reuse = runs[0] if runs else None
        try:
            train(read_recipe(name), out / name, reuse=reuse, quiet=options.quiet)
        except Interrupted as stopped:
            return stopped.exit_code
        runs.append(out / name)
    path = write_report(runs[0], against=runs[1:])
    say(f"\nopen {path} in a browser")
    return 0
