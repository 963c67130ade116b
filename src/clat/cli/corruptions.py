"""`clat corruptions`: accuracy under noise, blur, weather and compression."""

from __future__ import annotations

import argparse

from clat.cli.console import say, show
from clat.cli.options import (
    SAMPLE,
    add_batch_options,
    add_data_options,
    add_device_option,
    add_model_options,
    add_result_option,
)
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError
from clat.core.notices import recorded

HELP = "accuracy under common corruptions: noise, blur, weather, compression"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes.

    Args:
        parser: the command's.
    """
    add_model_options(parser)
    add_data_options(parser)
    parser.add_argument("--num-samples", type=int, help=f"{SAMPLE} (default: at most 1000)")
    parser.set_defaults(default_samples=1000)
    parser.add_argument("--names", help="corruptions, with commas (default: the fifteen common ones)")
    parser.add_argument("--severities", default="1,2,3,4,5", help="with commas (default: 1,2,3,4,5)")
    parser.add_argument("--against", metavar="FILE", help="a baseline's result: print mCE in units of its errors")
    add_batch_options(parser)
    add_device_option(parser)
    add_result_option(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, show and write.

    Args:
        options: as `add_options` names them.

    Returns:
        The exit code, 0.
    """
    from clat.cli.inputs import about_data, about_model, build_model, data_in_words, first_images, pick_device
    from clat.evaluation.corruptions import evaluate_corruptions, mean_corruption_error, read_baseline

    outputs = Outputs(options.out)
    baseline = None if options.against is None else read_baseline(options.against)
    try:
        severities = [int(word) for word in options.severities.split(",")]
    except ValueError:
        raise ClatError(f"--severities is '{options.severities}': expected numbers such as 1,3,5") from None
    device = pick_device(options.device)
    images = first_images(options)
    with recorded() as said:
        model = build_model(options, images, device)
    found = evaluate_corruptions(
        model,
        images,
        names=None if options.names is None else [name.strip() for name in options.names.split(",")],
        severities=severities,
        seed=options.seed,
        batch_size=options.batch_size,
        report=lambda name, severity: say(f"{name}, severity {severity}"),
        about={**about_model(options, said), **about_data(images)},
        against=baseline,
    )
    say(data_in_words(images, found.clean.n))
    show(found.table())
    data = found.to_dict()
    if baseline is not None:
        plain, relative = mean_corruption_error(data, baseline)
        told = "none, as the baseline loses nothing to some of them" if relative is None else f"{relative:.1%}"
        say(f"mCE {plain:.1%} of the baseline's errors, relative mCE {told}")
        data |= {"mce": plain, "relative_mce": relative, "baseline": options.against}
    outputs.write(data)
    return 0
