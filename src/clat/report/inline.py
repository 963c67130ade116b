"""Figures inside a page: as SVG elements in the page's own font and colours, for a wide screen and for a phone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from markupsafe import Markup
from matplotlib.figure import Figure

from clat.report.plots import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, PLAIN, PURPLE, SKY, render_figure
from clat.report.widths import for_phone

COLOURS = {
    INK: "ink", MUTED: "muted", FAINT: "line", PLAIN: "plain", BLUE: "blue", ORANGE: "orange", GREEN: "green",
    PURPLE: "purple", SKY: "sky", "#ffffff": "page", "#f5f7f9": "wash", "#ebeff3": "wash-2", "#aab4be": "axis",
    "#c9d1d9": "axis", "#000000": "ink",
}  # fmt: skip
"""A plot's colours and what the style sheet calls them, which has others for a dark screen."""
_KNOWN = re.compile("|".join(COLOURS), re.IGNORECASE)
_NAMES = {colour.lower(): f"var(--{name})" for colour, name in COLOURS.items()}


def inline_svg(figure: Figure, name: str, description: str, *, kind: str = "") -> Markup:
    """Return a figure as an <svg> element for a page.

    Text stays text (selectable, in the page's own font) and every id gets `name` in front, since the clip paths of
    several plots in one document would otherwise be mistaken for one another.

    Args:
        figure: the figure.
        name: unique within the page.
        description: what the plot shows, for readers who do not see it; escaped here.
        kind: the element's class.

    Returns:
        The element, marked as safe.
    """
    buffer = io.StringIO()
    render_figure(figure, buffer, "svg", fonttype="none")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)  # would reach the whole page
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'style="[^"]*"', lambda found: _KNOWN.sub(lambda one: _NAMES[one[0].lower()], found[0]), svg)
    label, sort = Markup.escape(description), f'class="{kind}" ' if kind else ""
    return Markup(svg.replace("<svg", f'<svg {sort}role="img" aria-label="{label}"', 1))


def inline_plot(draw: Callable[[], Figure], name: str, description: str) -> Markup:
    """Return a figure twice, of which the style sheet shows the one that fits the screen.

    Args:
        draw: makes the figure, as wide as `clat.report.plots.figure_width` says.
        name: unique within the page.
        description: what the plot shows, for readers who do not see it; escaped here.

    Returns:
        Both elements, marked as safe.
    """
    wide = inline_svg(draw(), name, description, kind="wide")
    with for_phone():
        narrow = inline_svg(draw(), f"{name}-phone", description, kind="narrow")
    return wide + narrow
