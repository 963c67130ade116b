"""`clat criticality`: the layers of a network, ranked in one of several ways, or in all of them side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clat.cli.console import say, show
from clat.cli.options import add_column_options, add_device_option, add_model_options, add_result_option
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError, unknown
from clat.core.units import parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clat.criticality.ranking_report import Ranked

HELP = "rank the layers of a network, by criticality or otherwise"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--ranking", help="clat (its criticality, the default), mrc, activation, rewinding, rewinding-drop"
    )
    parser.add_argument("--compare", action="store_true", help="measure every ranking and correlate them")
    add_model_options(parser)
    parser.add_argument(
        "--data", default="digits", help="data set: digits, a name under CLAT_DATA_DIR, a folder, owner/name"
    )
    parser.add_argument("--split", default="train", help="split to take the images from (default: train)")
    add_column_options(parser)
    parser.add_argument("--num-samples", type=int, default=100, help="images to measure on (default: 100)")
    parser.add_argument("--eps", default="8/255", help="perturbation size, a float or a fraction (default: 8/255)")
    parser.add_argument("--alpha", help="step size of the attack (default: 2.5 * eps / steps)")
    parser.add_argument("--steps", type=int, default=10, help="steps of the attack (default: 10)")
    parser.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    parser.add_argument("--normaliser", default="numel", help="numel (paper), sqrt, relative")
    parser.add_argument("--tap", default="output", help="output (paper), norm, activation")
    parser.add_argument("--metric", default="weakness", help="weakness (paper), curvature")
    parser.add_argument("--radius", type=float, default=0.1, help="mrc: relative change of a weight (default: 0.1)")
    parser.add_argument("--epochs", type=int, default=10, help="mrc: epochs of the ascent (default: 10)")
    parser.add_argument("--lr", type=float, default=1.0, help="mrc: step size of the ascent (default: 1)")
    parser.add_argument("--initial", metavar="FILE", help="weights of the start, for the rewinding rankings")
    parser.add_argument("--initial-key", metavar="KEY", help="as --weights-key, of the file of --initial")
    parser.add_argument(
        "--shortcuts", action=argparse.BooleanOptionalAction, help="count shortcuts (mrc alone: yes)"
    )
    parser.add_argument(
        "--classifier", action=argparse.BooleanOptionalAction, help="count the classifier (mrc alone: yes)"
    )
    parser.add_argument(
        "--include", nargs="+", default=[], metavar="PATTERN", help="only layers whose name matches"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN", help="without layers whose name matches"
    )
    parser.add_argument("--top", type=int, default=5, help="layers to mark in the table (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    add_result_option(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the report (.svg or .png)")


def run(options: argparse.Namespace) -> int:
    """Measure, show the table, write JSON and plot on request."""
    from clat.cli.inputs import build_model, pick_device, read_images
    from clat.core.notices import notice
    from clat.core.seeds import permutation
    from clat.criticality.rankings import layers_to_rank, measure_ranking
    from clat.data import Loader
    from clat.models.files import read_state

    outputs = Outputs(options.out, options.plot)
    rankings = _rankings(options)
    parse_size(options.eps, norm=options.norm)
    initial = None if options.initial is None else read_state(options.initial, options.initial_key)[0]
    device = pick_device(options.device)
    images = read_images(options)
    for note in images.notes:
        notice(note)
    model = build_model(options, images, device)
    if not 1 <= options.num_samples <= len(images):
        raise ClatError(f"--num-samples is {options.num_samples}: '{options.data}' has {len(images)} images")
    chosen = images.subset(permutation(len(images), options.seed, "criticality")[: options.num_samples])
    x, y = next(iter(Loader(chosen, len(chosen), device=device).epoch()))
    # RiFT's own ranking, measured alone, has shortcuts and classifier among its layers.
    layers = layers_to_rank(
        rankings[0] if len(rankings) == 1 else None,
        model,
        x,
        include=options.include,
        exclude=options.exclude,
        shortcuts=options.shortcuts,
        classifier=options.classifier,
    )
    if options.top < 0:
        raise ClatError(f"--top is {options.top}: expected 0 or more layers to mark")
    top = min(options.top, len(layers))

    def measure(ranking: str) -> Ranked[Any]:
        names = ("eps", "alpha", "steps", "norm", "normaliser", "tap", "metric", "radius", "epochs", "lr", "seed")
        settings = {name: getattr(options, name) for name in names}
        return measure_ranking(ranking, model, x, y, layers=layers, initial=initial, **settings)

    if options.compare:
        _compare(rankings, measure, top, outputs, without_start=options.initial is None)
    else:
        _single(measure(rankings[0]), top, outputs)
    return 0


def _rankings(options: argparse.Namespace) -> list[str]:
    """Return the rankings to measure, by their names."""
    from clat.criticality.rankings import RANKINGS, REWINDING

    if options.compare and options.ranking is not None:
        raise ClatError("--compare measures every ranking: leave --ranking out")
    if options.compare:
        return [name for name in RANKINGS if options.initial is not None or name not in REWINDING]
    ranking = "criticality" if options.ranking in (None, "clat") else options.ranking
    if ranking not in RANKINGS:
        raise unknown("ranking", options.ranking, ("clat", *RANKINGS))
    if (ranking in REWINDING) != (options.initial is not None):
        raise ClatError(
            f"--ranking {ranking} needs the weights of the start: --initial FILE"
            if ranking in REWINDING
            else f"--initial is for the rankings {' and '.join(REWINDING)}, or for --compare"
        )
    return [ranking]


def _single(report: Ranked[Any], top: int, outputs: Outputs) -> None:
    show(report.table(top=top))
    best = report.top(top) if top else []
    if best:
        say(f"most critical: {', '.join(best)}")

    def draw() -> Figure:
        from clat.report.plots import criticality_bars
        from clat.report.rankings import ranking_bars

        bars = criticality_bars if report.ranking == "criticality" else ranking_bars
        return bars(report.to_dict(), best)

    outputs.write(report, draw)


def _compare(
    rankings: Sequence[str],
    measure: Callable[[str], Ranked[Any]],
    top: int,
    outputs: Outputs,
    *,
    without_start: bool,
) -> None:
    from clat.criticality.comparison import compare_rankings
    from clat.criticality.rankings import RANKINGS

    reports = []
    for name in rankings:
        say(f"measuring {name}: {RANKINGS[name]}")
        reports.append(measure(name))
    comparison = compare_rankings(reports)
    show(comparison.table(top=top))
    if top:
        show(comparison.tops(top))
    show(comparison.correlations())
    if without_start:
        say("without --initial FILE, the weights of the start, the rewinding rankings are left out")

    def draw() -> Figure:
        from clat.report.rankings import ranking_comparison

        return ranking_comparison(comparison.to_dict(), top)

    outputs.write(comparison, draw)
