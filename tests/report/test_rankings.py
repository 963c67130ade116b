"""The plots of rankings: what they draw, and that nothing touches."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from matplotlib.colors import to_hex

from clat.criticality.comparison import compare_rankings
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.network.cost import Cost
from clat.report.plots import ORANGE
from clat.report.rankings import ranking_bars, ranking_comparison


def report(values: list[float], ranking: str = "mrc") -> RankingReport:
    rows = [RankingRow(i + 1, f"layer{i // 4}.{i % 4}.conv", "conv", 9, value) for i, value in enumerate(values)]
    return RankingReport(ranking, "rise of the robust loss", rows, 10, 0, {}, {}, Cost())


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_of_a_ranking() -> None:
    axes = ranking_bars(report([0.5, 2.0, 0.25, -1.0]).to_dict(), ["layer0.1.conv"]).axes[0]
    assert axes.get_xscale() == "linear"
    assert [bar.get_width() for bar in axes.patches] == [0.5, 2.0, 0.25, -1.0]
    assert [to_hex(bar.get_facecolor()) == ORANGE.lower() for bar in axes.patches] == [False, True, False, False]
    assert axes.get_xlabel() == "rise of the robust loss"


def test_values_of_many_magnitudes_zero_and_infinity() -> None:
    axes = ranking_bars(report([0.0, 1e-3, math.inf, 1e6]).to_dict(), []).axes[0]
    assert axes.get_xscale() == "log"
    assert [bar.get_width() > 0 for bar in axes.patches] == [False, True, False, True]
    assert texts(axes)[2] == "∞"
    ranking_bars(report([0.0, 0.0]).to_dict(), []).draw_without_rendering()
    others = report([math.nan, -math.inf, 1.0]).to_dict()
    others["rows"][2]["value"] = None  # as earlier versions wrote infinity
    assert texts(ranking_bars(others, []).axes[0]) == ["undefined", "−∞", "∞"]


@pytest.mark.parametrize(("layers", "count"), [(1, 2), (3, 2), (17, 5), (54, 3), (120, 5)])
def test_the_comparison_has_room_for_its_labels(layers: int, count: int) -> None:
    names = ["criticality", "mrc", "activation", "rewinding", "rewinding-drop"][:count]
    reports = [report([math.sin(i * (j + 2)) for i in range(layers)], name) for j, name in enumerate(names)]
    figure = ranking_comparison(compare_rankings(reports).to_dict(), top=3)
    figure.draw_without_rendering()
    ranks, matrix = figure.axes
    first, second = (axes._left_title.get_window_extent() for axes in (ranks, matrix))
    assert first.x1 <= second.x0
    assert second.x1 <= figure.bbox.x1
    layers_shown, names_shown = (
        [label.get_window_extent() for label in axes.get_yticklabels()] for axes in (ranks, matrix)
    )
    assert min(box.x0 for box in layers_shown) >= 0
    assert min(box.x0 for box in names_shown) >= ranks.bbox.x1


def test_what_the_comparison_shows() -> None:
    one, two = report([3.0, 2.0, 1.0, 0.5]), report([1.0, 2.0, 3.0, 4.0], "rewinding-drop")
    figure = ranking_comparison(compare_rankings([one, two]).to_dict(), top=1)
    ranks, matrix = figure.axes
    assert texts(ranks) == ["1", "4", "2", "3", "3", "2", "4", "1"]
    assert texts(matrix) == ["−1.00", "−1.00"]
    frames = sorted((frame.get_x(), frame.get_y()) for frame in ranks.patches)
    assert frames == [(-0.5, -0.5), (0.5, 2.5)]
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["mrc", "rewinding-drop"]
    assert re.match(r"1 · layer0\.0\.conv", ranks.get_yticklabels()[0].get_text())
