"""Plots of evaluations by themselves: transfer between networks, accuracy against eps.

They take what a result's `to_dict` or its file holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clat.core.formatting import shorten
from clat.evaluation.protocols import protocol_title, setting_text
from clat.report.plots import BLUE, INK, MUTED, ORANGE, styled
from clat.report.widths import WIDTH


@styled()
def transfer_map(result: Mapping[str, Any]) -> Figure:
    """Draw attackers down, victims across, accuracy as number and shade.

    The clean accuracy stands apart on top; what is white box (attacker and victim are one network) is outlined.

    Args:
        result: a transfer matrix as plain data: `networks`, `clean`, `attackers`, `protocol`, `eps`, `n`.

    Returns:
        The figure, accuracies in percent.
    """
    names = list(result["networks"])
    rows = [result["clean"], *(result["attackers"][name] for name in names)]
    grid = np.array([[100 * row[name]["value"] for name in names] for row in rows])
    labels = [shorten(name, 26) for name in names]
    slanted = max(map(len, labels)) * len(labels) > 40  # letters that fit side by side
    figure = Figure(figsize=(WIDTH, 0.42 * len(rows) + (2.0 if slanted else 1.25)), layout="constrained")
    axes = figure.subplots()
    # A gap below the clean row, drawn by leaving room between its lower and the next upper edge.
    edges = [-0.7, 0.3, *np.arange(0.5, len(names) + 1)]
    shades = LinearSegmentedColormap.from_list("blues", matplotlib.colormaps["Blues"](np.linspace(0.03, 0.55, 64)))
    padded = np.insert(grid, 1, np.nan, axis=0)
    axes.pcolormesh(
        np.arange(len(names) + 1) - 0.5, edges, np.ma.masked_invalid(padded),
        cmap=shades, vmin=0, vmax=100, edgecolors="white", linewidth=1.0,
    )  # fmt: skip
    places = [-0.2, *range(1, len(names) + 1)]
    for place, row in zip(places, rows, strict=True):
        for column, name in enumerate(names):
            _write_cell(axes, column, place, row[name], crowded=len(names) > 6)
    for i in range(len(names)):
        axes.add_patch(Rectangle((i - 0.5, i + 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.6, zorder=3))
    axes.set_yticks(places, ["clean", *labels])
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), labels)
    if slanted:
        for tick in axes.get_xticklabels():
            tick.set(rotation=35, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.set_ylim(len(names) + 0.55, -0.75)
    axes.set_xlim(-0.55, len(names) - 0.45)
    axes.spines[:].set_visible(False)
    figure.suptitle("accuracy in %: attacker down, victim across", fontsize=9, fontweight="bold", x=0.01, ha="left")
    axes.set_xlabel(f"{_setting(result)}, n = {result['n']}; outlined: white box")
    return figure


def _write_cell(axes: Axes, x: float, y: float, accuracy: Mapping[str, Any], crowded: bool) -> None:
    """Write the accuracy and, where there is room, its interval below in small."""
    value = f"{100 * accuracy['value']:.1f}"
    if crowded:
        axes.text(x, y, value, ha="center", va="center", color=INK, fontsize=8)
        return
    axes.text(x, y - 0.13, value, ha="center", va="center", color=INK, fontsize=9)
    written = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}"
    axes.text(x, y + 0.24, written, ha="center", va="center", color=INK, fontsize=6.5, alpha=0.85)


@styled()
def eps_plot(result: Mapping[str, Any]) -> Figure:
    """Draw accuracy against eps with 95 % intervals; the clean accuracy, if it is there, is a hollow dot.

    Args:
        result: an eps curve as plain data: `points` (`eps` and `accuracy` of each) and `protocol`.

    Returns:
        The figure; eps is shown times 255 where every one is a whole number of pixel values.
    """
    points = result["points"]
    sizes = [Fraction(point["eps"]["text"]) for point in points]
    pixels = all((255 * size).denominator == 1 for size in sizes)
    places = [float(255 * size if pixels else size) for size in sizes]
    values, low, high = (
        np.array([100 * point["accuracy"][key] for point in points]) for key in ("value", "low", "high")
    )
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(places, low, high, color=BLUE, alpha=0.13, linewidth=0)
    axes.plot(places, values, color=BLUE)
    axes.vlines(places, low, high, color=BLUE, linewidth=1.2)
    for place, value in zip(places, values, strict=True):
        axes.plot(
            place, value, "o", markersize=5, color=BLUE, markerfacecolor=BLUE if place else "white", clip_on=False
        )
        axes.annotate(
            f"{value:.1f}", (place, value), xytext=(5, 6), textcoords="offset points", fontsize=8, color=MUTED
        )
    _label_sizes(axes, places)
    axes.set_ylim(0, 100 if max(high) > 60 else None)
    axes.margins(x=0.08)
    axes.grid(axis="y")
    axes.set_xlabel(f"eps{' × 255' if pixels else ''}, {result['protocol']['norm']}")
    axes.set_ylabel("accuracy, %")
    count = points[0]["accuracy"]["n"]
    axes.set_title(f"{protocol_title(result['protocol'])}, n = {count}; bars: 95 % intervals")
    return figure


def _label_sizes(axes: Axes, places: Sequence[float]) -> None:
    """Set a tick at each eps, without the labels that would stand on their left neighbour's."""
    gap = 0.035 * (max(places) - min(places))
    shown: list[float] = []
    for place in places:
        if not shown or place - shown[-1] > gap:
            shown.append(place)
    axes.set_xticks(shown, [f"{place:.3g}" for place in shown])
    axes.set_xticks(places, minor=True)


def _setting(result: Mapping[str, Any]) -> str:
    return setting_text(result["protocol"], result["protocol"]["norm"], result["eps"]["text"])
