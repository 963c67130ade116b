"""`clat demo`: an ordinary classifier of handwritten digits, hardened."""

from __future__ import annotations

import argparse
from pathlib import Path

from clat.cli.console import say
from clat.cli.options import folder
from clat.core.errors import ClatError

HELP = "harden a classifier of handwritten digits, end to end, in about a minute"

EPS = "0.1"
EPOCHS = 15


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat demo`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--out", default="demo", type=folder, metavar="DIR", help="a new folder (default: demo)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of the hardening (default: {EPOCHS})")


def run(options: argparse.Namespace) -> int:
    """Train a classifier of digits, harden it, and draw the page.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 130 or 143 if it was stopped.

    Raises:
        ClatError: If the folder holds something already.
    """
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClatError(f"{out} exists already: name a new folder with --out, or remove it")
    from clat.core.checks import at_least
    from clat.data import load_split
    from clat.evaluation.protocols import protocol_title
    from clat.hardening import harden
    from clat.recipe.toml import read_recipe
    from clat.training.interrupt import Interrupted
    from clat.training.run import train

    at_least("--epochs", options.epochs, 1)
    train_set, test_set = load_split("digits", "train"), load_split("digits", "test")
    try:
        say("\nan ordinary classifier", style="bold")
        clean = train(read_recipe("digits-clean"), out / "clean", quiet=options.quiet)
        say("\nhardening it", style="bold")
        done = harden(
            clean.model,
            train_set,
            test_set,
            out / "hardened",
            eps=EPS,
            epochs=options.epochs,
            objective="pgd-2",
            batch_size=64,
            quiet=options.quiet,
        )
    except Interrupted as stopped:
        return stopped.exit_code
    protocol = done.after.to_dict()["protocol"]
    say(f"\non test images, under {protocol_title(protocol)} at {protocol['norm']} eps {EPS}:")
    for name, result in (("before", done.before), ("after", done.after)):
        say(f"{name:7} clean {result.clean_accuracy}   robust {result.robust_accuracy}")
    say(f"\nopen {done.out / 'report.html'} in a browser", style="bold")
    return 0
