"""Clean against robust held-out accuracy of a regime's rows, and the corner that would count as a gain."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clat.report.plots import BLUE, GREEN, MUTED, styled
from clat.report.widths import WIDTH
from clat.studies.evidence.screening import GOAL, Screened, control_to_beat, finalist


@styled()
def clean_against_robust(found: Sequence[Screened]) -> Figure | None:
    """Draw a dot a row, and the control that the finalist has to beat as broken lines.

    Args:
        found: rows; those that are not trained are left out.

    Returns:
        The figure, accuracies in percent; None where no finalist can be chosen.
    """
    form = finalist(found)
    if form is None:
        return None
    control = control_to_beat(found, form)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    x0, y0 = (100 * control.mean(kind) for kind in ("clean", "robust"))
    for one in found:
        if not one.heldout:
            continue
        x, y = (100 * one.mean(kind) for kind in ("clean", "robust"))
        colour = MUTED if one.row.control else BLUE
        axes.plot(x, y, "o" if one.row.weights == "last" else "s", color=colour, markersize=4)
        axes.annotate(one.row.name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6, color=colour)
    axes.margins(0.12)
    corner = (x0 + 100 * GOAL["clean"], y0 + 100 * GOAL["robust"])
    right, top = (
        max(axes.get_xlim()[1], corner[0] + 0.5),
        max(axes.get_ylim()[1], corner[1] + 0.5),
    )
    axes.add_patch(Rectangle(corner, right - corner[0], top - corner[1], color=GREEN, alpha=0.15, linewidth=0))
    axes.set_xlim(right=right)
    axes.set_ylim(top=top)
    axes.axvline(x0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.axhline(y0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_xlabel("held-out clean, %; broken lines: the control to beat; green: what would count as a gain")
    axes.set_ylabel("held-out robust, %")
    axes.grid(True)
    return figure
