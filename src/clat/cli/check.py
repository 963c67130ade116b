"""`clat check`: signs of gradient masking."""

from __future__ import annotations

import argparse

from clat.cli.console import show
from clat.cli.options import EPS, add_measuring_options, add_model_options
from clat.cli.outputs import Outputs
from clat.core.units import parse_size

HELP = "signs that a network's gradients mislead attacks"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_model_options(parser)
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument("--strict", action="store_true", help="leave with exit code 1 if something is suspicious")
    add_measuring_options(parser, default_samples=500)


def run(options: argparse.Namespace) -> int:
    """Look for the signs; return 0, or with --strict 1 if there is one."""
    from clat.cli.inputs import about_data, about_model, build_model, first_images, pick_device, tensors
    from clat.evaluation.masking.check import check

    outputs = Outputs(options.out)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    images = first_images(options)
    report = check(
        build_model(options, images, device),
        *tensors(images),
        eps=options.eps,
        norm=options.norm,
        seed=options.seed,
        batch_size=options.batch_size,
        about={**about_model(options), **about_data(images)},
    )
    show(report.table())
    outputs.write(report)
    return int(options.strict and report.suspicious)
