"""Rankings of layers as plots: the bars of one, and several side by side with their correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from clat.core.formatting import DASH, MINUS, number, significant
from clat.report.heatmap import outline_cells
from clat.report.plots import INK, MUTED, ORANGE, PLAIN, label_layers, plain_log_ticks, row_height, styled
from clat.report.widths import figure_width, text_size

NOT_FINITE = {"nan": "undefined", "-inf": f"{MINUS}∞"}
"""What a report says of a value that is no number -> how it is shown; of infinity earlier ones have null."""


@styled()
def ranking_bars(report: Mapping[str, Any], selected: Sequence[str]) -> Figure:
    """Draw a bar a layer for a ranking other than CLAT's criticality, selected layers in colour.

    The axis is logarithmic where positive values span more than two powers of ten (rewinding); a value that such
    an axis cannot show, or that is infinite, is written instead.

    Args:
        report: a ranking as plain data: `rows` with `name` and `value`, and `measure`, the axis' label.
        selected: names of the selected layers.

    Returns:
        The figure.
    """
    rows = report["rows"]
    values = [number(row.get("value")) for row in rows]
    known = [value for value in values if value is not None]
    positive = [value for value in known if value > 0]
    logarithmic = bool(positive) and min(known) >= 0 and max(positive) > 100 * min(positive)
    chosen = {i for i, row in enumerate(rows) if row.get("name") in set(selected)}
    height = row_height(len(rows))
    figure = Figure(figsize=(figure_width(), height * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots()
    base = min(positive) / 2 if logarithmic else 0.0
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(base, max(positive) * 3)
        plain_log_ticks(axes.xaxis, (1.0,))
    for i, value in enumerate(values):
        width = 0.0 if value is None else max(value - base, 0.0) if logarithmic else value
        axes.barh(i, width, left=base, height=0.72, color=ORANGE if i in chosen else PLAIN)
        if height > 0.15:
            text = NOT_FINITE.get(str(rows[i].get("value")), "∞") if value is None else significant(value)
            place = base + max(width, 0.0)
            beside = axes.annotate(text, (place, i), xytext=(3, 0), textcoords="offset points", color=MUTED)
            beside.set(va="center", fontsize=text_size(7))
    if not logarithmic:
        axes.margins(x=0.12)
    label_layers(axes, rows, chosen, height)
    axes.grid(axis="x")
    axes.set_xlabel(f"{report.get('measure', 'value')}{', logarithmic' if logarithmic else ''}")
    return figure


@styled()
def ranking_comparison(comparison: Mapping[str, Any], top: int) -> Figure:
    """Draw several rankings side by side, and how they correlate.

    Left: layers down, rankings across, dark where a layer ranks high, the `top` of each outlined. Right: the rank
    correlations, Spearman's below the diagonal and Kendall's above.

    Args:
        comparison: `clat.criticality.comparison`'s result as plain data: `rankings`, `layers`, `ranks`, `spearman`,
            `kendall`; NaN or None where there is no number.
        top: layers to outline in each ranking, 0 or more.

    Returns:
        The figure.
    """
    names, layers = comparison["rankings"], comparison["layers"]
    ranks = np.array([comparison["ranks"][name] for name in names], dtype=float).T
    height = row_height(len(layers))
    widths = [max(0.62 * len(names), 1.9), max(0.75 * len(names), 2.1)]
    figure = Figure(figsize=(sum(widths) + 3.2, max(height * len(layers) + 1.4, 3.6)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=widths)
    _draw_ranks(left, ranks, height)
    best = {(row, column) for column in range(len(names)) for row in _best(ranks[:, column], top)}
    outline_cells(left, best)
    label_layers(left, layers, set(), height)
    left.set_ylim(len(layers) - 0.5, -0.5)
    left.set_title("ranks, 1 the most critical" + (f"\noutlined: the first {top}" if top else ""))
    _name_columns(left, names)
    _draw_correlations(right, np.array(comparison["spearman"], float), np.array(comparison["kendall"], float))
    right.set_title("rank correlation\nSpearman below, Kendall above")
    _name_columns(right, names)
    right.set_yticks(range(len(names)), names)
    right.set_anchor("N")
    return figure


def _best(ranks: np.ndarray, top: int) -> list[int]:
    """Return the places of the `top` smallest ranks, NaN aside; of equal ones the earlier."""
    order = np.argsort(ranks, kind="stable")
    return [int(place) for place in order[:top] if not np.isnan(ranks[place])]


def _draw_ranks(axes: Axes, ranks: np.ndarray, height: float) -> None:
    layers, count = ranks.shape
    shades = matplotlib.colormaps["Blues"](np.linspace(0.85, 0.08, 64))
    axes.patch.set(facecolor="white", edgecolor="#c9d1d9", hatch="/////")  # shows where there is no rank
    axes.pcolormesh(
        np.arange(count + 1) - 0.5,
        np.arange(layers + 1) - 0.5,
        np.ma.masked_invalid(ranks),
        vmin=1,
        vmax=max(layers, 2),
        cmap=LinearSegmentedColormap.from_list("ranks", shades, N=64),
        edgecolors="white",
        linewidth=0.4,
    )
    axes.spines[:].set_visible(False)
    if height <= 0.15:
        return
    for row, column in zip(*np.nonzero(~np.isnan(ranks)), strict=True):
        dark = ranks[row, column] - 1 < 0.45 * (layers - 1) or layers == 1
        text = f"{ranks[row, column]:g}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)


def _draw_correlations(axes: Axes, spearman: np.ndarray, kendall: np.ndarray) -> None:
    count = len(spearman)
    values = np.tril(np.nan_to_num(spearman, nan=np.inf), -1) + np.triu(np.nan_to_num(kendall, nan=np.inf), 1)
    values[~np.isfinite(values)] = np.nan
    np.fill_diagonal(values, np.nan)
    axes.imshow(np.ma.masked_invalid(values), vmin=-1, vmax=1, cmap="PuOr", aspect="equal")
    for row in range(count):
        for column in range(count):
            value = values[row, column]
            if row == column:
                continue
            text = DASH if np.isnan(value) else f"{value:+.2f}".replace("-", MINUS)
            shade = "white" if not np.isnan(value) and abs(value) > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
    axes.spines[:].set_visible(False)


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
