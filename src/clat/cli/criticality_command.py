"""`clat criticality`: the layers of a network, ranked in one of several ways, or in all of them side by side."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.cli.running import build_model, console, pick_device
from clat.core.errors import ClatError, unknown
from clat.core.files import claim_output
from clat.core.seeds import permutation
from clat.core.units import parse_size
from clat.criticality.comparison import compare_rankings
from clat.criticality.ranking_report import Ranked
from clat.criticality.rankings import RANKINGS, AnyRanking, make_ranking
from clat.data import Loader, load_split
from clat.models.files import read_state
from clat.network.chain import layers_off_chain
from clat.network.groups import check_group
from clat.network.layers import Layer, enumerate_layers
from clat.report.plots import criticality_bars, plot_format, save_figure
from clat.report.rankings import ranking_bars, ranking_comparison


def criticality(options: Namespace) -> int:
    """The table on screen, JSON and plot on request."""
    outputs = [claim_output(path) for path in (options.out, options.plot) if path is not None]
    if options.plot is not None:
        plot_format(options.plot)
    rankings = _rankings(options)
    parse_size(options.eps, norm=options.norm)
    check_group(options.layers)
    initial = None if options.initial is None else read_state(options.initial)[0]
    device = pick_device(options.device)
    images = load_split(options.data, options.split, image_size=options.image_size)
    model = build_model(options, images, device)
    if not 1 <= options.num_samples <= len(images):
        raise ClatError(f"--num-samples is {options.num_samples}: '{options.data}' has {len(images)} images")
    chosen = images.subset(permutation(len(images), options.seed, "criticality")[: options.num_samples])
    x, y = next(iter(Loader(chosen, len(chosen), device=device).epoch()))
    layers = _layers(options, model, x, rankings)
    if options.top < 0:
        raise ClatError(f"--top is {options.top}: expected 0 or more layers to mark")
    top = min(options.top, len(layers))

    def measure(ranking: AnyRanking) -> Ranked[Any]:
        threat = {"eps": options.eps, "norm": options.norm}
        return ranking.measure(model, x, y, layers=layers, seed=options.seed, initial=initial, **threat)

    (_compare if options.compare else _single)(options, rankings, measure, top)
    _caution(rankings, model, x, layers)
    for path in outputs:
        console.print(f"wrote {path}")
    return 0


def _rankings(options: Namespace) -> list[AnyRanking]:
    """The rankings to measure. Each takes of the options what concerns it."""
    if options.compare and options.ranking is not None:
        raise ClatError("--compare measures every ranking: leave --ranking out")
    rewinding = [name for name, ranking in RANKINGS.items() if ranking.needs_initial]
    if options.compare:
        names = [name for name in RANKINGS if options.initial is not None or name not in rewinding]
    else:
        ranking = "criticality" if options.ranking in (None, "clat") else options.ranking
        if ranking not in RANKINGS:
            raise unknown("ranking", options.ranking, ("clat", *RANKINGS))
        if (ranking in rewinding) != (options.initial is not None):
            raise ClatError(
                f"--ranking {ranking} needs the weights of the start: --initial FILE"
                if ranking in rewinding
                else f"--initial is for the rankings {' and '.join(rewinding)}, or for --compare"
            )
        names = [ranking]
    return [make_ranking(name, vars(options)) for name in names]


def _layers(options: Namespace, model: nn.Module, x: Tensor, rankings: Sequence[AnyRanking]) -> list[Layer]:
    """The layers to rank; RiFT's own ranking, measured alone, has shortcuts and classifier among them."""
    whole = all(ranking.whole_network for ranking in rankings)
    return enumerate_layers(
        model,
        x,
        include=options.include,
        exclude=options.exclude,
        group=options.layers,
        shortcuts=whole if options.shortcuts is None else options.shortcuts,
        classifier=whole if options.classifier is None else options.classifier,
    )


def _caution(rankings: Sequence[AnyRanking], model: nn.Module, x: Tensor, layers: Sequence[Layer]) -> None:
    """Say where C compares a layer with one that it does not read, or not alone."""
    if all(getattr(ranking, "predecessor", "input") == "input" for ranking in rankings):
        return
    aside = layers_off_chain(model, x, layers)
    if aside:
        console.print(
            f"caution: {len(aside)} of {len(layers)} layers, {aside[0]} the first, do not read the layer before "
            "them in forward order, or not it alone, and C compares them with it; --predecessor input compares "
            "each with what it reads",
            style="yellow",
        )


Measure = Callable[[AnyRanking], Ranked[Any]]


def _single(options: Namespace, rankings: Sequence[AnyRanking], measure: Measure, top: int) -> None:
    report = measure(rankings[0])
    console.print(report.table(top=top))
    best = report.top(top) if top else []
    if best:
        console.print(f"most critical: {', '.join(best)}")
    if options.out is not None:
        report.to_json(options.out)
    if options.plot is not None:
        draw = criticality_bars if report.ranking == "criticality" else ranking_bars
        save_figure(draw(report.to_dict(), best), Path(options.plot))


def _compare(options: Namespace, rankings: Sequence[AnyRanking], measure: Measure, top: int) -> None:
    reports = []
    for ranking in rankings:
        console.print(f"measuring {ranking.name}: {ranking.about}")
        reports.append(measure(ranking))
    comparison = compare_rankings(reports)
    console.print(comparison.table(top=top))
    if top:
        console.print(comparison.tops(top))
    console.print(comparison.correlations())
    if options.initial is None:
        console.print("without --initial FILE, the weights of the start, the rewinding rankings are left out")
    if options.out is not None:
        comparison.to_json(options.out)
    if options.plot is not None:
        save_figure(ranking_comparison(comparison.to_dict(), top), Path(options.plot))
