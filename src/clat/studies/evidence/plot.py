"""Clean against robust accuracy of a regime's rows, and the corner that would count as a gain."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clat.report.plots import BLUE, GREEN, MUTED, styled
from clat.report.widths import WIDTH
from clat.studies.evidence.judged import GOAL, Judged, best_control


@styled()
def clean_against_robust(found: Sequence[Judged]) -> Figure | None:
    """Draw a dot a row, with the standard error of its difference to the best control as a cross.

    Args:
        found: rows, judged; those without numbers are left out.

    Returns:
        The figure, accuracies in percent; None where nothing was measured.
    """
    control = best_control(found)
    if control is None:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    x0, y0 = (100 * control.interval(kind).value for kind in ("clean", "robust"))
    for one in found:
        if not one.measured:
            continue
        x, y = (100 * float(one.verdicts[kind].mean()) for kind in ("clean", "robust"))
        colour = MUTED if one.row.control else BLUE
        if one.against:
            wide, high = (100 * one.against[kind].error for kind in ("clean", "robust"))
            axes.errorbar(x, y, xerr=wide, yerr=high, color=colour, alpha=0.5, linewidth=0.8)
        axes.plot(x, y, "o" if one.row.weights == "last" else "s", color=colour, markersize=4)
        axes.annotate(one.row.name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6, color=colour)
    axes.margins(0.12)
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    corner = (x0 + 100 * GOAL["clean"], y0 + 100 * GOAL["robust"])
    right, top = max(right, corner[0] + 0.5), max(top, corner[1] + 0.5)
    axes.add_patch(Rectangle(corner, right - corner[0], top - corner[1], color=GREEN, alpha=0.15, linewidth=0))
    axes.set_xlim(right=right)
    axes.set_ylim(top=top)
    axes.axvline(x0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.axhline(y0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_xlabel("clean accuracy, %; broken lines: the best control; green: what would count as a gain")
    axes.set_ylabel("robust accuracy, %")
    axes.grid(True)
    return figure
