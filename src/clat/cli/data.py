"""`clat data`: the user's own images, before anything is trained on them."""

from __future__ import annotations

import argparse

from clat.cli.console import console, say, show
from clat.cli.options import add_column_options, add_result_option
from clat.cli.outputs import Outputs
from clat.core.errors import unknown

HELP = "look into a data set (classes, counts, sizes, broken files), or fetch a public one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat data`.

    Args:
        parser: the command's parser, changed in place.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="decode every image of a data set and report")
    check.add_argument("data", metavar="FOLDER", help="a folder, a name under CLAT_DATA_DIR, or owner/name")
    add_column_options(check)
    check.add_argument(
        "--strict",
        action="store_true",
        help="leave with exit code 1 if a file is broken or in two splits, or an image has no label",
    )
    add_result_option(check)
    fetch = actions.add_parser(
        "fetch",
        help="fetch public data sets from the Hugging Face hub, checked by SHA-256",
        description="Fetches cifar10, cifar100 or imagenette (160 pixels) into CLAT_DATA_DIR.",
    )
    fetch.add_argument("names", nargs="+", metavar="NAME", help="cifar10, cifar100, imagenette")
    fetch.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="a mirror of the hub to try first; repeatable"
    )


def run(options: argparse.Namespace) -> int:
    """Check or fetch data sets.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0; with --strict 1 if a file is broken or stands in two splits, or an image has no label.

    Raises:
        ClatError: If there is no such data set, it has no files to check, or it cannot be fetched.
    """
    return _check(options) if options.action == "check" else _fetch(options)


def _fetch(options: argparse.Namespace) -> int:
    """Fetch data sets, the names checked before the first is."""
    from clat.core.progress import draws_bars
    from clat.data.fetch import KNOWN, fetch_data

    for name in options.names:
        if name not in KNOWN:
            raise unknown("data set to fetch", name, KNOWN)
    if not draws_bars(console()):
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    for name in options.names:
        say(f"{name} is ready in {fetch_data(name, mirrors=options.mirror, say=say)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    """Decode all images of a data set, report on its splits, and write JSON on request."""
    from clat.data.inspection import inspect_data

    outputs = Outputs(options.out)
    report = inspect_data(
        options.data,
        label_column=options.label_column,
        image_column=options.image_column,
        classes=options.classes,
    )
    show(report.split_table())
    show(report.class_table())
    for line in report.lines():
        say(line)
    outputs.write(report)
    return int(options.strict and not report.sound)
