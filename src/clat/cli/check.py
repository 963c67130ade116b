"""`clat check`: signs of gradient masking."""

from __future__ import annotations

import argparse

from clat.cli.console import console, say, show
from clat.cli.options import EPS, add_measuring_options, add_model_options
from clat.cli.outputs import Outputs
from clat.core.notices import recorded
from clat.core.units import parse_size

HELP = "signs that a network's gradients mislead attacks"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat check`.

    Args:
        parser: the command's parser, changed in place.
    """
    add_model_options(parser)
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument("--strict", action="store_true", help="leave with exit code 1 if something is suspicious")
    add_measuring_options(parser, default_samples=500, l1=False)


def run(options: argparse.Namespace) -> int:
    """Look for signs of gradient masking, show them, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0; with --strict 1 if there is a sign.

    Raises:
        ClatError: If the network and the images do not go together.
    """
    from clat.cli.inputs import (
        about_data,
        about_model,
        build_model,
        data_in_words,
        first_images,
        pick_device,
        tensors,
    )  # fmt: skip
    from clat.core.progress import watching
    from clat.evaluation.masking.check import check

    outputs = Outputs(options.out)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    images = first_images(options)
    with recorded() as said:
        model = build_model(options, images, device)
    with watching(console()):
        report = check(
            model,
            *tensors(images),
            eps=options.eps,
            norm=options.norm,
            seed=options.seed,
            batch_size=options.batch_size,
            about={**about_model(options, said), **about_data(images)},
        )
    say(data_in_words(images, report.clean.n))
    show(report.table())
    outputs.write(report)
    return int(options.strict and report.suspicious)
