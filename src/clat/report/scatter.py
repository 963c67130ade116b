"""Clean against robust accuracy of many runs, each point a link to its run's page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from clat.evaluation.result import RecordedAccuracy
from clat.report.inline import inline_plot
from clat.report.plots import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, styled
from clat.report.widths import figure_width, is_narrow, text_size

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
MARKERS = "osD^v"


class ScatterPoint(NamedTuple):
    """A run in the plot: its number, its name, its page, its accuracies, and how it was measured."""

    number: int
    name: str
    page: str
    clean: RecordedAccuracy
    robust: RecordedAccuracy
    measured: str


@styled()
def draw_scatter(points: Sequence[ScatterPoint]) -> Figure:
    """Draw a numbered point for each run with the 95 % intervals of its accuracies.

    Args:
        points: at least one; those that were measured alike share colour and shape.

    Returns:
        The figure, accuracies in percent.
    """
    figure = Figure(figsize=(figure_width(), 4.0 if is_narrow() else 4.4), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(point.measured for point in points))
    for point in points:
        group = groups.index(point.measured)
        colour, marker = COLOURS[group % len(COLOURS)], MARKERS[group // len(COLOURS) % len(MARKERS)]
        x, y = 100 * point.clean.value, 100 * point.robust.value
        axes.errorbar(
            x, y, xerr=_reach(point.clean), yerr=_reach(point.robust), color=colour, alpha=0.3, linewidth=0.8
        )
        axes.plot(
            [x],
            [y],
            marker,
            color=colour,
            markersize=7,
            gid=f"run-{point.number}",
            url=point.page or None,
            zorder=3,
        )
        axes.annotate(
            str(point.number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=text_size(7.5), color=INK
        )
    if len(groups) > 1:
        handles = [
            axes.plot([], [], MARKERS[i // len(COLOURS) % len(MARKERS)], color=COLOURS[i % len(COLOURS)])[0]
            for i in range(len(groups))
        ]
        figure.legend(handles, groups, loc="outside upper left", fontsize=text_size(7.5))
    axes.set_xlabel("clean accuracy in %")
    axes.set_ylabel("robust accuracy in %")
    axes.margins(0.08)
    axes.grid(True)
    return figure


def scatter_plot(points: Sequence[ScatterPoint]) -> Markup | None:
    """Return the plot for a page, its points links with a name.

    Args:
        points: of the runs that have both accuracies.

    Returns:
        SVG elements for a wide screen and for a phone; None without points.
    """
    if not points:
        return None
    described = "Clean against robust accuracy of the runs; the table below has the same numbers and links"
    svg = str(inline_plot(lambda: draw_scatter(points), "scatter", described)).replace('role="img"', 'role="group"')
    for point in (one for one in points if one.page):
        accuracies = f"{point.number} {point.name}: clean {point.clean}, robust {point.robust}"
        title = f"<title>{Markup.escape(accuracies)}</title>".replace("\\", r"\\")
        inside = re.compile(rf'(<g id="scatter(?:-phone)?-run-{point.number}">.*?<a [^>]*>)', re.DOTALL)
        svg = inside.sub(rf"\1{title}", svg)
    return Markup(svg)


def _reach(accuracy: RecordedAccuracy) -> list[list[float]] | None:
    """Return how far the interval reaches below and above, in points."""
    if accuracy.low is None or accuracy.high is None:
        return None
    return [[100 * (accuracy.value - accuracy.low)], [100 * (accuracy.high - accuracy.value)]]
