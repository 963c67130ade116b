"""The plots' common style, how they are written, and the bars a layer.

Figures are built directly, without pyplot: no global state, no display, nothing to close.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from clat.core.errors import ClatError
from clat.core.formatting import number, power_of_ten, shorten, significant
from clat.report.widths import figure_width, is_narrow, text_size

# Okabe and Ito's palette, which the common forms of colour blindness can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT, PLAIN = "#1f2933", "#66717d", "#e4e8ec", "#b7c4d1"
ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
"""The box of a label that lines run underneath."""

STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#aab4be",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "clat",  # else the ids inside the file change from run to run
}


def styled() -> Any:
    """Return a decorator that draws in the plots' style and puts matplotlib's settings back afterwards.

    Returns:
        A context manager that is a decorator as well.
    """
    return matplotlib.rc_context(STYLE)


def render_figure(figure: Figure, target: Any, file_format: str, fonttype: str = "path") -> None:
    """Write a figure to a file or buffer, the same bytes each time.

    Args:
        figure: the figure.
        target: a path or a buffer.
        file_format: "svg" or "png".
        fonttype: of an SVG's text: "path", or "none" for letters of the reader's own font.
    """
    dateless = {"Date": None, "Creator": None, "Format": None, "Type": None}
    metadata = dateless if file_format == "svg" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "svg.fonttype": fonttype}), warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks still shows right in a browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, format=file_format, metadata=metadata, dpi=200, facecolor="white")


def plot_format(path: Path | str) -> str:
    """Return the format that a file's name asks for; to be called before the measurement.

    Args:
        path: the file of the plot; its ending counts, in either case.

    Returns:
        "svg" or "png".

    Raises:
        ClatError: If the name ends in neither.
    """
    file_format = Path(path).suffix.lower().lstrip(".")
    if file_format not in ("svg", "png"):
        raise ClatError(f"cannot write a plot to '{path}': its name must end in .svg or .png")
    return file_format


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure as SVG or PNG, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: the figure.
        path: a file in an existing folder, its name ending in .svg or .png; an older one is replaced.

    Returns:
        The path.

    Raises:
        ClatError: If the name has another ending, or the file cannot be written.
    """
    path = Path(path)
    file_format = plot_format(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        render_figure(figure, partial, file_format)
        os.replace(partial, path)
    except OSError as error:
        raise ClatError(f"cannot write the plot '{path}' ({error.strerror}); choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def label_rows(total: int, important: Iterable[int], gap: int) -> list[int]:
    """Return which rows to label when a label needs several: the important ones first, then every `gap`-th.

    >>> label_rows(9, [4], gap=3)
    [0, 4, 7]

    Args:
        total: number of rows.
        important: rows that are labelled before others.
        gap: rows from one label to the next, at least 1.

    Returns:
        Rows in ascending order.
    """
    chosen: list[int] = []
    for row in [*sorted(important), *range(0, total, gap), *range(total)]:
        if all(abs(row - other) >= gap for other in chosen):
            chosen.append(row)
    return sorted(chosen)


def layer_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return names that fit beside a plot: long ones without the modules that all layers share.

    Args:
        rows: the rows of a report, at least one, each with its layer's `name`.

    Returns:
        A name a row, of at most 32 characters.
    """
    names = [str(row.get("name", "?")) for row in rows]
    if max(map(len, names)) > 30:
        paths = [name.split(".") for name in names]
        shared = len([*itertools.takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))])
        names = [".".join(path[shared:]) or path[-1] for path in paths]
    return [shorten(name, 18 if is_narrow() else 32) for name in names]


def row_height(layers: int) -> float:
    """Return the height of a layer's row: roomy for twenty layers, and a hundred and twenty still fit a page.

    Args:
        layers: number of layers, at least 1.

    Returns:
        Inches, from 0.085 to 0.21.
    """
    return min(0.21, max(0.085, 9.0 / layers))


def label_layers(axes: Axes, rows: Sequence[Mapping[str, Any]], chosen: set[int], height: float) -> None:
    """Write layer names down the left side, first layer on top, selected ones bold and in colour.

    Args:
        axes: axes with layer i centred at y = i.
        rows: the rows of a report, with `name` and, if they are numbered, `index`.
        chosen: positions of the selected layers.
        height: inches a row; where rows are narrow, only some are labelled.
    """
    size = 8.5 if height > 0.15 else text_size(7.0)
    shown = label_rows(len(rows), chosen, gap=math.ceil(size * 1.15 / 72 / height))
    names = layer_names(rows)
    labels = [f"{rows[i].get('index', i + 1)} · {names[i]}" for i in shown]
    axes.set_yticks(shown, labels, fontsize=size)
    axes.tick_params(axis="y", length=0 if height > 0.15 else 2)
    for row, tick in zip(shown, axes.get_yticklabels(), strict=True):
        if row in chosen:
            tick.set(color=ORANGE, fontweight="bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)


@styled()
def criticality_bars(report: Mapping[str, Any], selected: Sequence[str]) -> Figure:
    """Draw a bar a layer, selected layers in colour.

    In forward order the first layer has no predecessor to be divided by: its criticality is its weakness, on
    another scale, so it is hatched, carries its number, and does not stretch the axis.

    Args:
        report: a criticality report as plain data: `rows` with `name` and `criticality`, and `predecessor`.
        selected: names of the selected layers.

    Returns:
        The figure; its axis is logarithmic where one layer is far above the rest.
    """
    rows = report["rows"]
    values = [number(row.get("criticality")) for row in rows]
    by_input = report.get("predecessor") == "input"
    first = 0 if by_input else 1
    ratios = [value for value in values[first:] if value is not None] or [1.0]
    positive = [value for value in ratios if value > 0]
    # Bars from zero are the plainest, but they hide most layers once one is far above the rest.
    logarithmic = len(positive) == len(ratios) and max(ratios) > 30 * float(np.median(ratios))
    base = 1.0 if logarithmic else 0.0
    chosen = {i for i, row in enumerate(rows) if row.get("name") in set(selected)}
    height = row_height(len(rows))
    figure = Figure(figsize=(figure_width(), height * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots()
    for i, value in enumerate(values[first:], start=first):
        if value is not None:
            axes.barh(i, value - base, left=base, height=0.72, color=ORANGE if i in chosen else PLAIN)
    low, high = (min(ratios) / 1.3, max(ratios) * 1.5) if logarithmic else (min(0, *ratios), max(ratios) * 1.1)
    if logarithmic:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, (1.0, 3.0))
    axes.set_xlim(low, max(high, 1.05))
    axes.plot([1, 1], [first - 0.5, len(rows) - 0.4], color=INK, linewidth=0.8, linestyle=(0, (3, 3)))
    if not by_input:
        _mark_first(axes, values[0], hue=ORANGE if 0 in chosen else MUTED, size=8.5 if height > 0.15 else 7)
    if height > 0.15:
        _write_values(axes, rows, values, base, first)
    label_layers(axes, rows, chosen, height)
    axes.grid(axis="x")
    one = "what enters the layer" if by_input else "the layer before"
    dashed = "dashed: 1" if is_narrow() else f"dashed: 1, as weak as {one}"
    axes.set_xlabel(f"criticality{', logarithmic' if logarithmic else ''}  ({dashed})")
    return figure


def _mark_first(axes: Axes, value: float | None, hue: str, size: float) -> None:
    """Draw a hatched stub of fixed length with the first layer's value beside it."""
    share = axes.get_yaxis_transform()  # x in shares of the width, y in rows
    axes.barh(0, 0.025, height=0.72, transform=share, color="white", edgecolor=hue, hatch="//////", linewidth=0.6)
    written = f"W = {significant(value)}{'' if is_narrow() else ': its own scale, no layer before it'}"
    axes.text(0.035, 0, written, transform=share, va="center", fontsize=text_size(size - 1), color=hue)


def _in_words(row: Mapping[str, Any]) -> str:
    """Return what stands for a criticality that is no number: it follows a layer that does not change at all."""
    weakness = number(row.get("weakness"))
    if weakness is None:
        return "not measured"
    return "∞" if weakness > 0 and row.get("input_weakness") is None else "undefined"


def _write_values(
    axes: Axes, rows: Sequence[Mapping[str, Any]], values: Sequence[float | None], base: float, first: int
) -> None:
    for i, value in enumerate(values[first:], start=first):
        end = base if value is None else max(value, base)
        axes.annotate(
            _in_words(rows[i]) if value is None else significant(value),
            (end, i),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=text_size(7),
            color=MUTED,
            bbox=ON_WHITE,
        )


def plain_log_ticks(axis: Axis, subs: tuple[float, ...]) -> None:
    """Set ticks at multiples of the powers of ten, in plain characters instead of typeset mathematics.

    Args:
        axis: a logarithmic axis.
        subs: multiples, in [1, 10), of each power of ten.
    """
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())
