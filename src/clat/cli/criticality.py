"""`clat criticality`: the layers of a network, ranked in one of several ways, or in all of them side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clat.cli.console import console, say, show
from clat.cli.options import (
    DATA_SETS,
    DEFAULT_DATA,
    add_column_options,
    add_device_option,
    add_model_options,
    add_result_option,
    add_seed_option,
)
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError, unknown
from clat.core.units import parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from clat.criticality.ranking_report import Ranked
    from clat.criticality.rankings import AnyRanking
    from clat.network.layers import Layer

HELP = "rank the layers of a network, by criticality or otherwise"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat criticality`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument(
        "--ranking",
        help="clat (criticality, the default), mrc, activation, rewinding, rewinding-drop, or package.module:Class",
    )
    parser.add_argument("--compare", action="store_true", help="measure every ranking and correlate them")
    add_model_options(parser)
    parser.add_argument("--data", default="digits", help=f"data set: {DATA_SETS} ({DEFAULT_DATA})")
    parser.add_argument("--split", default="train", help="split to take the images from (default: train)")
    add_column_options(parser)
    parser.add_argument("--num-samples", type=int, default=100, help="images to measure on (default: 100)")
    parser.add_argument("--eps", default="8/255", help="perturbation size, a float or a fraction (default: 8/255)")
    parser.add_argument("--alpha", help="step size of the attack (default: 2.5 * eps / steps)")
    parser.add_argument("--steps", type=int, default=10, help="steps of the attack (default: 10)")
    parser.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    parser.add_argument("--normaliser", help="numel (paper's weakness), sqrt, relative, none (paper's curvature)")
    parser.add_argument("--tap", default="output", help="output (paper), norm, activation (default: output)")
    parser.add_argument("--metric", default="weakness", help="weakness (paper), curvature (default: weakness)")
    parser.add_argument(
        "--predecessor", default="forward", help="of a layer in C: forward (paper's order, the default), input"
    )
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
    parser.add_argument("--layers", metavar="GROUP", help="only one sort of layers: attention, mlp, convolutions")
    parser.add_argument(
        "--include", nargs="+", default=[], metavar="PATTERN", help="only layers whose name matches"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN", help="without layers whose name matches"
    )
    parser.add_argument("--top", type=int, default=5, help="layers to mark in the table (default: 5)")
    add_seed_option(parser)
    add_device_option(parser)
    add_result_option(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the report (.svg or .png)")


def run(options: argparse.Namespace) -> int:
    """Measure one ranking or all, show the table, and write JSON and a plot on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If options do not go together, or the network and the images do not.
    """
    from clat.cli.inputs import about_data, about_model, build_model, data_in_words, pick_device, read_images
    from clat.core.environment import describe_environment
    from clat.core.notices import notice, recorded
    from clat.core.progress import watching
    from clat.core.seeds import permutation
    from clat.data import Loader
    from clat.evaluation.subset import check_count
    from clat.models.files import read_state
    from clat.models.fitting import bare
    from clat.network.fingerprint import identity
    from clat.network.groups import check_group
    from clat.network.layers import enumerate_layers

    outputs = Outputs(options.out, options.plot)
    rankings = _rankings(options)
    check_group(options.layers)
    parse_size(options.eps, norm=options.norm)
    initial = None if options.initial is None else read_state(options.initial, options.initial_key)[0]
    device = pick_device(options.device)
    images = read_images(options)
    for note in images.notes:
        notice(note)
    with recorded() as said:
        model = build_model(options, images, device)
    check_count(options.num_samples, images)
    chosen = images.subset(permutation(len(images), options.seed, "criticality")[: options.num_samples])
    x, y = next(iter(Loader(chosen, len(chosen), device=device).epoch()))
    # RiFT's own ranking, measured alone, has shortcuts and classifier among its layers.
    whole = all(ranking.whole_network for ranking in rankings)
    layers = enumerate_layers(
        model,
        x,
        include=options.include,
        exclude=options.exclude,
        group=options.layers,
        shortcuts=whole if options.shortcuts is None else options.shortcuts,
        classifier=whole if options.classifier is None else options.classifier,
    )
    if options.top < 0:
        raise ClatError(f"--top is {options.top}: expected 0 or more layers to mark")
    top = min(options.top, len(layers))

    def measure(ranking: AnyRanking) -> Ranked[Any]:
        threat = {"eps": options.eps, "norm": options.norm}
        with watching(console()):
            return ranking.measure(model, x, y, layers=layers, seed=options.seed, initial=initial, **threat)

    say(data_in_words(images, len(chosen)))
    _caution(rankings, model, x, layers)
    about = {
        **about_model(options, said),
        "initial": options.initial,
        "network": identity(bare(model)),
        **about_data(chosen),
        "environment": describe_environment(device),
    }
    if options.compare:
        _compare(rankings, measure, top, outputs, about, without_start=options.initial is None)
    else:
        _single(measure(rankings[0]), top, outputs, about)
    return 0


def _rankings(options: argparse.Namespace) -> list[AnyRanking]:
    """Return the rankings to measure. Each takes of the options what concerns it."""
    from clat.core.plugins import is_path
    from clat.criticality.rankings import RANKINGS, find_ranking, make_ranking

    rewinding = [name for name, ranking in RANKINGS.items() if ranking.needs_initial]
    if options.compare and options.ranking is not None:
        raise ClatError("--compare measures every ranking: leave --ranking out")
    if options.compare:
        names = [name for name in RANKINGS if options.initial is not None or name not in rewinding]
        return [make_ranking(name, vars(options)) for name in names]
    ranking = "criticality" if options.ranking in (None, "clat") else options.ranking
    if is_path(ranking):
        rewinding = [ranking] if find_ranking(ranking).needs_initial else []
    elif ranking not in RANKINGS:
        raise unknown("ranking", options.ranking, ("clat", *RANKINGS))
    if (ranking in rewinding) != (options.initial is not None):
        raise ClatError(
            f"--ranking {ranking} needs the weights of the start: --initial FILE"
            if ranking in rewinding
            else f"--initial is for the rankings {' and '.join(rewinding)}, or for --compare"
        )
    _refuse_others_settings(options, ranking)
    return [make_ranking(ranking, vars(options))]


def _refuse_others_settings(options: argparse.Namespace, ranking: str) -> None:
    """Raise ClatError for an option that sets what other rankings have, and this one has not."""
    from clat.criticality.rankings import RANKINGS, find_ranking

    parser = argparse.ArgumentParser()
    add_options(parser)
    own = {field.name for field in fields(find_ranking(ranking))}
    for name in vars(options).keys() - own:
        owners = [other for other, kind in RANKINGS.items() if name in {field.name for field in fields(kind)}]
        if owners and getattr(options, name) != parser.get_default(name):
            raise ClatError(
                f"--{name} is for the ranking{'s' if len(owners) > 1 else ''} {' and '.join(owners)}, or for "
                f"--compare; {ranking} has no such setting"
            )


def _caution(rankings: Sequence[AnyRanking], model: nn.Module, x: Tensor, layers: Sequence[Layer]) -> None:
    """Say where C compares a layer with one that it does not read, or not alone."""
    from clat.network.chain import layers_off_chain

    if all(getattr(ranking, "predecessor", "input") == "input" for ranking in rankings):
        return
    aside = layers_off_chain(model, x, layers)
    if aside:
        say(
            f"caution: {len(aside)} of {len(layers)} layers, {aside[0]} the first, do not read the layer before "
            "them in forward order, or not it alone, and C compares them with it; --predecessor input compares "
            "each with what it reads",
            style="yellow",
        )


def _single(report: Ranked[Any], top: int, outputs: Outputs, about: dict[str, Any]) -> None:
    show(report.table(top=top))
    best = report.top(top) if top else []
    if best:
        say(f"most critical: {', '.join(best)}")

    def draw() -> Figure:
        from clat.report.plots import criticality_bars
        from clat.report.rankings import ranking_bars

        bars = criticality_bars if report.ranking == "criticality" else ranking_bars
        return bars(report.to_dict(), best)

    outputs.write(report, draw, about)


def _compare(
    rankings: Sequence[AnyRanking],
    measure: Callable[[AnyRanking], Ranked[Any]],
    top: int,
    outputs: Outputs,
    about: dict[str, Any],
    *,
    without_start: bool,
) -> None:
    from clat.criticality.comparison import compare_rankings

    reports = []
    for ranking in rankings:
        say(f"measuring {ranking.name}: {ranking.about}")
        reports.append(measure(ranking))
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

    outputs.write(comparison, draw, about)
