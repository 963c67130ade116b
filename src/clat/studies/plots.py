"""The plots of a study: clean against robust accuracy, and each group's differences to the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from clat.core.formatting import MINUS
from clat.report.plots import BLUE, MUTED, ON_WHITE, ORANGE, PLAIN, styled
from clat.report.widths import figure_width, text_size
from clat.studies.tables.groups import ACCURACIES


class PlotPoint(NamedTuple):
    """A row in the plot: its name and, for clean and robust accuracy, (value, from, to) in [0, 1]."""

    name: str
    clean: tuple[float, float, float]
    robust: tuple[float, float, float]


def table_points(table: Mapping[str, Any]) -> list[PlotPoint]:
    """Return means and deviations over the seeds where there are several, else each row and its 95 % intervals.

    Args:
        table: what `clat.studies.collect.collect` returned.

    Returns:
        A point for each group, or for each finished row.
    """
    if table["groups"]:
        found = []
        for group in table["groups"]:
            summaries = [group[f"last_{kind}"] for kind in ACCURACIES]
            spans = [(one["mean"], one["deviation"] or 0.0) for one in summaries]
            found.append(PlotPoint(group["name"], *((mean, mean - sd, mean + sd) for mean, sd in spans)))
        return found
    done = [row for row in table["rows"] if row["status"] == "finished"]
    return [
        PlotPoint(
            row["name"], *(tuple(row["last"][kind][key] for key in ("value", "low", "high")) for kind in ACCURACIES)
        )
        for row in done
    ]


@styled()
def clean_against_robust(points: Sequence[PlotPoint]) -> Figure | None:
    """Draw a named dot with its two spans for each point; X and X+clat are joined.

    What lies far from the rest is an open dot at the border, with its accuracies beside it.

    Args:
        points: the rows, of which X stands before X+clat.

    Returns:
        The figure, accuracies in percent; None without points.
    """
    if not points:
        return None
    height = 4.2 + 0.12 * max(0, len(points) - 15)  # room for the names
    figure = Figure(figsize=(figure_width(), height), layout="constrained")
    axes = figure.subplots()
    labels = []
    both = ([point.clean for point in points], [point.robust for point in points])
    reach = [_reach([100 * end for spread in spreads for end in spread]) for spreads in both]
    places = {}
    for name, clean, robust in points:
        means = (100 * clean[0], 100 * robust[0])
        x, y = places[name] = tuple(float(np.clip(mean, *ends)) for mean, ends in zip(means, reach, strict=True))
        far = (x, y) != means
        colour = ORANGE if "clat" in name else BLUE
        spans = [[[100 * abs(value - end)] for end in (low, high)] for value, low, high in (clean, robust)]
        axes.errorbar(x, y, xerr=spans[0], yerr=spans[1], color=colour, alpha=0.25, linewidth=0.8, zorder=1)
        label = f"{name} ({means[0]:.1f}, {means[1]:.1f})" if far else name
        axes.plot(
            x, y, "o", color=colour, markersize=4.5, zorder=3, fillstyle="none" if far else "full", clip_on=False
        )
        labels.append(axes.annotate(label, (x, y), xytext=PLACES[0], textcoords="offset points", zorder=4))
        labels[-1].set(fontsize=text_size(6.5), color=colour)
        base = name.removesuffix("+clat")
        if base != name and base in places:
            axes.plot(*zip(places[base], (x, y), strict=True), color=MUTED, linewidth=0.7, zorder=2)
    axes.set_xlabel("clean accuracy in %")
    axes.set_ylabel("robust accuracy in %")
    axes.set(xlim=reach[0], ylim=reach[1])
    axes.grid(True)
    _set_apart(figure, axes, labels)
    return figure


PLACES = [(4, 3), (4, -8), (-4, 3), (-4, -8), (4, 10), (4, -15), (-4, 10), (-4, -15), (4, 17), (-4, 17)]
"""Where a label may stand, in points right of and above its point; it ends there where that is to the left."""


def _set_apart(figure: Figure, axes: Axes, labels: Sequence[Annotation]) -> None:
    """Put each label at the first of PLACES at which it covers neither a point nor a label before it."""
    figure.draw_without_rendering()  # gives everything its place on the page
    points = axes.transData.transform([label.xy for label in labels])
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in points]
    for number, label in enumerate(labels):
        others = [box for place, box in enumerate(taken) if place != number]
        for right, up in PLACES:
            label.set(position=(right, up), horizontalalignment="left" if right > 0 else "right")
            box = label.get_window_extent()
            if not box.count_overlaps(others):
                break
        taken.append(box)


@styled()
def differences(groups: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw each group's clean and robust accuracy less the control's.

    The lines are 95 % t intervals over the seeds. Each seed is a faint dot. What lies far from the rest, such as a
    row that collapsed, would press all others together: it is written at the border instead, and wide intervals end
    there.

    Args:
        groups: a table's `groups`; those without a difference, such as the control, are left out.

    Returns:
        The figure, in percentage points; None if no group has a control.
    """
    shown = [group for group in groups if f"{ACCURACIES[0]}_less_control" in group]
    if not shown:
        return None
    figure = Figure(figsize=(figure_width(), 0.9 + 0.17 * len(shown)), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ACCURACIES, strict=True):
        found = [group[f"{kind}_less_control"] for group in shown]
        low, high = _reach([0.0, *(100 * value for one in found for value in one["values"])])
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for place, one in enumerate(found):
            dots = [100 * value for value in one["values"]]
            axes.plot(dots, [place] * len(dots), "o", color=PLAIN, markersize=3)
            if one["low"] is not None:
                axes.plot([100 * one["low"], 100 * one["high"]], [place, place], color=BLUE, linewidth=1.0)
            mean = 100 * one["value"]
            if low <= mean <= high:
                axes.plot(mean, place, "o", color=BLUE, markersize=4.5)
            else:
                _at_border(axes, mean, place, on_left=mean < low)
        axes.set_xlim(low, high)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), [group["name"] for group in shown])
        axes.tick_params(axis="y", length=0, labelsize=text_size(7))
        axes.set_xlabel(f"{kind} less control, points")
        axes.grid(True, axis="x")
    return figure


def _reach(values: Sequence[float]) -> tuple[float, float]:
    """Return from where to where an axis shows `values`.

    Shown are all within three interquartile ranges of the quartiles (Tukey's "far out"; of fewer than ten values,
    all), and a tenth more on both sides.
    """
    first, third = np.percentile(values, [25, 75])
    bound = 3 * (third - first) if len(values) >= 10 else np.inf
    near = [value for value in values if first - bound <= value <= third + bound]
    margin = 0.1 * (max(near) - min(near)) or 1.0
    return min(near) - margin, max(near) + margin


def _at_border(axes: Axes, value: float, place: float, *, on_left: bool) -> None:
    edge = 0.0 if on_left else 1.0
    where = axes.get_yaxis_transform()  # the share of the axes' width, and the line
    axes.plot(edge, place, "<" if on_left else ">", color=BLUE, markersize=4.5, transform=where, clip_on=False)
    text = f"{value:+.1f}".replace("-", MINUS)
    right = 6 if on_left else -6
    beside = axes.annotate(text, (edge, place), xycoords=where, xytext=(right, 0), textcoords="offset points")
    beside.set(va="center", ha="left" if on_left else "right", fontsize=text_size(6.5), color=BLUE)
    beside.set_bbox(ON_WHITE)  # its own interval runs underneath
