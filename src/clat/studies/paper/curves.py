"""The plots of the papers' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clat.report.plots import BLUE, GREEN, MUTED, ORANGE, PURPLE, SKY, styled
from clat.report.widths import WIDTH
from clat.studies.paper.cells import SAME, Cell
from clat.studies.paper.methods import AVERAGED
from clat.studies.paper.paper_table import PaperTable

CONTROLS = {"PGD-AT": "--", AVERAGED: ":"}
"""Rows of a sweep that move no number of layers -> how they are drawn."""
COLOURS = (MUTED, ORANGE, BLUE, GREEN, PURPLE, SKY)


@styled()
def accuracy_by(cells: Sequence[Cell], table: PaperTable) -> Figure | None:
    """Draw accuracy against the number of layers, or against eps, with 95 % intervals over seeds and images.

    Args:
        cells: the figure's cells.
        table: the figure: F7 draws clean accuracy, F3 robust, F4 a line a network over eps.

    Returns:
        The figure, accuracies in percent; None where nothing was measured that it compares.
    """
    kind = "clean" if table.id == "F7" else "robust"
    shown = [one for one in cells if one.verdicts is not None and (table.kind == "strength" or one.kind == kind)]
    if not shown or (table.kind == "sweep" and all(one.row in CONTROLS for one in shown)):
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    if table.kind == "strength":
        names = list(dict.fromkeys(cell.row for cell in shown))
        groups = {name: [cell for cell in shown if cell.row == name] for name in names}
        for (name, members), colour in zip(groups.items(), COLOURS, strict=False):
            _line(axes, members, [_eps(cell) for cell in members], colour, name)
        axes.set_xlabel("eps, linf")
    else:
        networks = list(dict.fromkeys(cell.network for cell in shown if cell.row not in CONTROLS))
        for network, colour in zip(networks, COLOURS[1:], strict=False):
            swept = [cell for cell in shown if cell.network == network and cell.row not in CONTROLS]
            _line(axes, swept, [float(cell.row.removeprefix("k = ")) for cell in swept], colour, network)
            for cell in shown:
                if cell.network == network and cell.row in CONTROLS and cell.interval is not None:
                    axes.axhline(
                        100 * cell.interval.value, color=colour, linewidth=0.8, linestyle=CONTROLS[cell.row]
                    )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("critical layers that move; broken line: PGD-AT, dotted: averaged weights")
    axes.set_ylabel(f"{kind} accuracy, %")
    axes.grid(True)
    axes.legend()
    return figure


def _eps(cell: Cell) -> float:
    """Return the eps of a cell of F4, 0 for clean accuracy."""
    return 0.0 if cell.kind == "clean" else float(cell.attack.rpartition(" ")[2])


def _line(axes: Axes, cells: Sequence[Cell], places: Sequence[float], colour: str, name: str) -> None:
    """Draw one line with its intervals."""
    found = [(place, cell.interval) for place, cell in sorted(zip(places, cells, strict=True), key=lambda p: p[0])]
    known = [(place, one) for place, one in found if one is not None]
    if not known:
        return
    x = [place for place, _ in known]
    value, low, high = ([100 * getattr(one, key) for _, one in known] for key in ("value", "low", "high"))
    axes.plot(x, value, "o-", color=colour, markersize=4, label=name)
    axes.vlines(x, low, high, color=colour, linewidth=1.0, alpha=0.6)


@styled()
def curves_over_epochs(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure | None:
    """Draw clean and robust held-out accuracy against the epoch, a colour a network, a line a seed.

    Args:
        curves: name -> for each seed, records with epoch, heldout_clean and heldout_robust.

    Returns:
        The figure, accuracies in percent; None where nothing was trained.
    """
    if not any(curves.values()):
        return None
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, kind in zip(panels, ("clean", "robust"), strict=True):
        for (name, seeds), colour in zip(curves.items(), COLOURS, strict=False):
            for number, records in enumerate(seeds):
                values = [100 * one[f"heldout_{kind}"] for one in records]
                label = name if number == 0 else None
                marker = "o" if len(values) == 1 else ""
                epochs = [one["epoch"] for one in records]
                axes.plot(epochs, values, color=colour, marker=marker, linewidth=1.2, alpha=0.85, label=label)
        axes.set_ylabel(f"held-out {kind}, %")
        axes.grid(True)
    panels[0].legend(fontsize=7)
    panels[1].set_xlabel("epoch")
    return figure


@styled()
def effects(cells: Sequence[Cell]) -> Figure | None:
    """Draw our effects with their intervals beside the printed ones.

    Args:
        cells: a table's cells; those without both effects are left out.

    Returns:
        The figure, in percentage points; None without any.
    """
    shown = [cell for cell in cells if cell.effect is not None and cell.printed_effect is not None]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH + 1.2, 0.9 + 0.17 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, cell in enumerate(shown):
        one = cell.effect
        assert one is not None
        colour = BLUE if cell.settled == SAME else MUTED
        axes.plot([100 * one.low, 100 * one.high], [place, place], color=colour, linewidth=1.0)
        axes.plot(100 * one.value, place, "o", color=colour, markersize=4, label="ours" if place == 0 else None)
        axes.plot(
            cell.printed_effect or 0.0,
            place,
            "x",
            color=ORANGE,
            markersize=5,
            label="paper" if place == 0 else None,
        )
    names = [f"{c.dataset}, {c.network}, {c.row}, {'clean' if c.kind == 'clean' else c.attack}" for c in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.tick_params(axis="y", length=0, labelsize=6.5)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    alone = all(cell.effect.seeds == 1 for cell in shown if cell.effect is not None)
    axes.set_xlabel(f"effect, points; ours with 95 % interval over {'images' if alone else 'seeds and images'}")
    axes.grid(True, axis="x")
    axes.legend(fontsize=7)
    return figure
