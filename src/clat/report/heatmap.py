"""The criticality of every layer from one selection to the next, as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clat.core.formatting import number
from clat.report.plots import ORANGE, label_layers, plain_log_ticks, row_height, styled
from clat.report.widths import figure_width, is_narrow


@styled()
def criticality_map(reports: Mapping[int, Mapping[str, Any]], selected: Mapping[int, Sequence[str]]) -> Figure:
    """Draw layers down, selections across, criticality as colour on a logarithmic scale, selected layers outlined.

    Args:
        reports: epoch -> the criticality report measured there, as in `criticality/epoch-*.json`; at least one.
        selected: epoch -> names of the layers that were selected then.

    Returns:
        The figure; cells without a positive number are hatched. Where selections rank different layers it shows
        all of them, numbered anew.
    """
    epochs = sorted(reports)
    rows = reports[epochs[0]]["rows"]
    names = _names_in_order([reports[epoch]["rows"] for epoch in epochs])
    if len(names) > len(rows):
        rows = [{"name": name} for name in names]
    place = {name: i for i, name in enumerate(names)}
    chosen = {(place[name], j) for j, e in enumerate(epochs) for name in selected.get(e, ()) if name in place}
    height = row_height(len(rows))
    figure = Figure(figsize=(figure_width(), height * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.patch.set(facecolor="white", edgecolor="#c9d1d9", hatch="/////")  # shows where there is no number
    mesh = _draw_cells(axes, _grid(reports, epochs, place))
    outline_cells(axes, chosen)
    label_layers(axes, rows, {row for row, _ in chosen}, height)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    step = math.ceil(len(epochs) / (7 if is_narrow() else 14))
    axes.set_xticks(range(0, len(epochs), step), [str(epoch) for epoch in epochs[::step]])
    axes.set_xlabel("epoch of the selection")
    axes.spines[:].set_visible(False)
    _add_scale(figure, axes, mesh, share=3.5 / (height * len(rows)))
    return figure


def _names_in_order(reports: Iterable[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """Return the names of all reports' layers, each after the one that it follows where it is first ranked."""
    names: list[Any] = []
    for rows in reports:
        after = 0
        for row in rows:
            if (name := row.get("name")) not in names:
                names.insert(after, name)
            after = names.index(name) + 1
    return names


def _grid(reports: Mapping[int, Mapping[str, Any]], epochs: Sequence[int], place: Mapping[Any, int]) -> np.ndarray:
    """Criticality by layer and selection; NaN where it was not measured or a logarithm cannot show it."""
    grid = np.full((len(place), len(epochs)), np.nan)
    for column, epoch in enumerate(epochs):
        # That of the first is on another scale, unless it is compared with the input: see criticality_bars.
        for row in reports[epoch]["rows"][0 if reports[epoch].get("predecessor") == "input" else 1 :]:
            value = number(row.get("criticality"))
            if row.get("name") in place and value is not None and value > 0:
                grid[place[row["name"]], column] = value
    return grid


def _draw_cells(axes: Axes, grid: np.ndarray) -> ScalarMappable:
    known = grid[np.isfinite(grid)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    rows, columns = grid.shape
    shades = matplotlib.colormaps["Blues"](np.linspace(0.12, 1, 64))  # without the near-white end
    return axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(grid),
        norm=LogNorm(low, high if high > low else low * 1.01),
        cmap=LinearSegmentedColormap.from_list("blues", shades, N=64),
        edgecolors="white",
        linewidth=0.4 if columns <= 20 else 0.1,
    )


def outline_cells(axes: Axes, chosen: Iterable[tuple[int, int]]) -> None:
    """Draw one frame around neighbouring selections that kept a layer, so that frames do not hide colours.

    Args:
        axes: axes whose cell (row, column) is centred at x = column, y = row.
        chosen: (row, column) of the cells to outline.
    """
    ordered = enumerate(sorted(chosen))
    # Along neighbours in a row, column less place in the sorted list stays the same.
    for _, group in groupby(ordered, key=lambda item: (item[1][0], item[1][1] - item[0])):
        run = [cell for _, cell in group]
        row, column = run[0]
        corner = (column - 0.5, row - 0.5)
        frame = Rectangle(corner, len(run), 1, fill=False, edgecolor=ORANGE, linewidth=1.5, clip_on=False)
        axes.add_patch(frame)


def _add_scale(figure: Figure, axes: Axes, mesh: ScalarMappable, share: float) -> None:
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=35, anchor=(0, 1), shrink=min(1.0, share))
    plain_log_ticks(bar.ax.yaxis, (1.0, 2.0, 5.0))
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")  # else it is an image within the SVG
    bar.set_label("criticality, logarithmic")
