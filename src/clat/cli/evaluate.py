"""`clat evaluate`: accuracies with intervals on screen, JSON on request."""

from __future__ import annotations

import argparse

from clat.cli.options import EPS, add_measuring_options, add_model_options
from clat.cli.places import add_place_options

HELP = "clean and robust accuracy under a protocol"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat evaluate`.

    Args:
        parser: the command's parser, changed in place.
    """
    add_model_options(parser)
    parser.add_argument(
        "--protocol",
        help="autoattack, apgd, cr, pgd-20, ..., a TOML file, or composite: autoattack-sampled, fast (default: "
        "pgd-20, or what --budget allows)",
    )
    parser.add_argument("--screen", help="of autoattack-sampled: cr, or apgd (default: cr)")
    parser.add_argument("--sample", type=int, metavar="N", help="of autoattack-sampled: images in the sample")
    parser.add_argument("--budget", metavar="TIME", help="30s, 10m, 2h: choose protocol and images that fit in it")
    parser.add_argument(
        "--target-width", type=float, metavar="POINTS", help="go on until the interval is as narrow as that"
    )
    parser.add_argument(
        "--precision", default="float32", help="of the search: float32, bfloat16 (default: float32)"
    )
    parser.add_argument("--state", metavar="FILE", help="keep here how far it is, to go on after an interruption")
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument(
        "--ids", metavar="FILE", help="only these images of the split: a JSON list of numbers, or one a line"
    )
    parser.add_argument(
        "--gallery",
        type=int,
        metavar="N",
        help="draw a page with N pictures, and results class by class: --out with .html, or gallery.html",
    )
    parser.add_argument("--devices", type=int, default=1, help="processes, one a device (default: 1)")
    add_place_options(parser, "shares")
    parser.add_argument(
        "--share", metavar="K/N", help="only the K-th share, from 0, of those that N workers divide; needs --state"
    )
    add_measuring_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure clean and robust accuracy, show them, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If options do not go together, or the network and the images do not.
    """
    from clat.cli import evaluation_plans
    from clat.runtime.jobs.schedule import JobsStopped

    try:
        return evaluation_plans.evaluate(options)
    except JobsStopped as stopped:
        return 128 + stopped.number
