"""`clat push`: a folder of `clat export` to the Hugging Face hub."""

from __future__ import annotations

import argparse

from clat.cli.console import say

HELP = "send a folder of clat export to the Hugging Face hub"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat push`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("folder", metavar="DIR", help="what clat export --out FOLDER wrote")
    parser.add_argument("repo", metavar="OWNER/NAME", help="made if there is none")
    parser.add_argument(
        "--card",
        choices=("keep", "replace"),
        default="new",
        help="what to do with a model card that is there (default: stop if there is one)",
    )
    parser.add_argument("--private", action="store_true", help="of a repository that is made")


def run(options: argparse.Namespace) -> int:
    """Send the folder to the hub, and print its address there.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: no such folder, a card is on the hub already, nobody is logged in, or the hub cannot be reached.
    """
    from clat.publishing import push

    say(push(options.folder, options.repo, card=options.card, private=options.private))
    return 0
