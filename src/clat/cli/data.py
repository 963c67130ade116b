"""`clat data`: the user's own images, before anything is trained on them."""

from __future__ import annotations

import argparse

from clat.cli.console import say, show
from clat.cli.options import add_column_options, add_result_option
from clat.cli.outputs import Outputs

HELP = "look into a data set: classes, counts, sizes, splits, broken files"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat data`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("action", metavar="ACTION", choices=("check",), help="check: decode every image and report")
    parser.add_argument("data", metavar="FOLDER", help="a folder, a name under CLAT_DATA_DIR, or owner/name")
    add_column_options(parser)
    parser.add_argument(
        "--strict", action="store_true", help="leave with exit code 1 if a file is broken or in two splits"
    )
    add_result_option(parser)


def run(options: argparse.Namespace) -> int:
    """Decode all images of a data set, report on its splits, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0; with --strict 1 if a file is broken or stands in two splits.

    Raises:
        ClatError: If there is no such data set, or it has no files to check.
    """
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
