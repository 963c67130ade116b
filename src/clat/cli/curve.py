"""`clat curve`: accuracy against eps."""

from __future__ import annotations

import argparse
from fractions import Fraction
from typing import TYPE_CHECKING

from clat.cli.console import console, say
from clat.cli.options import add_measuring_options, add_model_options
from clat.cli.outputs import Outputs
from clat.core.notices import recorded
from clat.core.units import parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clat.evaluation import Evaluation

HELP = "accuracy against the size of the perturbation"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat curve`.

    Args:
        parser: the command's parser, changed in place.
    """
    add_model_options(parser)
    parser.add_argument(
        "--eps",
        default="0,2/255,4/255,8/255,16/255",
        help="sizes, with commas (default: 0,2/255,4/255,8/255,16/255)",
    )
    parser.add_argument("--protocol", default="pgd-20", help="as for evaluate (default: pgd-20)")
    parser.add_argument("--plot", metavar="FILE", help="draw the curve (.svg or .png)")
    add_measuring_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the accuracy at each eps, show it, and write JSON and a plot on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If an eps is out of range, or the network and the images do not go together.
    """
    from clat.cli.inputs import about_model, build_model, data_in_words, first_images, pick_device
    from clat.evaluation import evaluate_set
    from clat.evaluation.curve import heeding_eps, trace_curve
    from clat.evaluation.live import evaluation_progress

    outputs = Outputs(options.out, options.plot)
    protocol = heeding_eps(options.protocol)
    sizes = [parse_size(size.strip(), norm=options.norm) for size in options.eps.split(",")]
    device = pick_device(options.device)
    images = first_images(options)
    with recorded() as said:
        model = build_model(options, images, device)

    def measure(eps: Fraction) -> Evaluation:
        with evaluation_progress(console()) as report:
            return evaluate_set(
                model,
                images,
                protocol=protocol,
                eps=eps,
                norm=options.norm,
                batch_size=options.batch_size,
                seed=options.seed,
                report=report,
                about=about_model(options, said),
            )

    result = trace_curve(measure, sizes, options.norm)
    for note in dict.fromkeys(note for one in result.results for note in one.notes):
        if note not in images.notes:
            say(f"note: {note}")
    say(data_in_words(images, len(images)))
    for size, accuracy in result.points:
        say(f"{options.norm} eps {size:8} {accuracy}{'' if Fraction(size) else '   clean'}")

    if (expected := result.expected_accuracy) is not None:
        first, last = result.points[0][0], result.points[-1][0]
        say(f"expected accuracy {expected:.1%}, with every eps from {first} to {last} as likely as any other")

    def draw() -> Figure:
        from clat.report.robustness import eps_plot

        return eps_plot(result.to_dict())

    outputs.write(result, draw)
    return 0
