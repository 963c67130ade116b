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
from clat.criticality.rankings import RANKINGS, REWINDING, layers_to_rank, measure_ranking
from clat.data import Loader, load_split
from clat.models.files import read_state
from clat.network.layers import Layer
from clat.report.plots import criticality_bars, plot_format, save_figure
from clat.report.rankings import ranking_bars, ranking_comparison


def criticality(options: Namespace) -> int:
    """The table on screen, JSON and plot on request."""
    outputs = [claim_output(path) for path in (options.out, options.plot) if path is not None]
    if options.plot is not None:
        plot_format(options.plot)
    rankings = _rankings(options)
    parse_size(options.eps, norm=options.norm)
    initial = None if options.initial is None else read_state(options.initial, options.initial_key)[0]
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

    def measure(ranking: str) -> Ranked[Any]:
        names = ("eps", "alpha", "steps", "norm", "normaliser", "tap", "metric", "radius", "epochs", "lr", "seed")
        settings = {name: getattr(options, name) for name in names}
        return measure_ranking(ranking, model, x, y, layers=layers, initial=initial, **settings)

    (_compare if options.compare else _single)(options, rankings, measure, top)
    for path in outputs:
        console.print(f"wrote {path}")
    return 0


def _rankings(options: Namespace) -> list[str]:
    """The rankings to measure, by their names."""
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


def _layers(options: Namespace, model: nn.Module, x: Tensor, rankings: Sequence[str]) -> list[Layer]:
    """The layers to rank; RiFT's own ranking, measured alone, has shortcuts and classifier among them."""
    return layers_to_rank(
        rankings[0] if len(rankings) == 1 else None,
        model,
        x,
        include=options.include,
        exclude=options.exclude,
        shortcuts=options.shortcuts,
        classifier=options.classifier,
    )


def _single(options: Namespace, rankings: Sequence[str], measure: Callable[[str], Ranked[Any]], top: int) -> None:
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


def _compare(options: Namespace, rankings: Sequence[str], measure: Callable[[str], Ranked[Any]], top: int) -> None:
    reports = []
    for name in rankings:
        console.print(f"measuring {name}: {RANKINGS[name]}")
        reports.append(measure(name))
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
