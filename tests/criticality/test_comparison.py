"""How rankings are compared, and the report that most of them share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau, spearmanr

from clat import CriticalityReport, RankingReport, compare_rankings
from clat.core.errors import ClatError
from clat.criticality.ranking_report import RankingRow
from clat.criticality.report import CriticalityRow
from clat.network.cost import Cost


def ranking(values: Sequence[float], name: str = "mrc", layers: Sequence[str] | None = None) -> RankingReport:
    names = layers or [f"conv{i + 1}" for i in range(len(values))]
    rows = [RankingRow(i + 1, names[i], "conv", 10, value, {"loss": 1.5}) for i, value in enumerate(values)]
    cost = Cost(forwards=7, backwards=5, seconds=0.5)
    return RankingReport(name, "what it is", rows, 50, 0, {"eps": "8/255"}, {"accuracy": 0.5}, cost)


def criticality(values: Sequence[float]) -> CriticalityReport:
    rows = [CriticalityRow(i + 1, f"conv{i + 1}", "conv", 10, (2,), 1.0, value) for i, value in enumerate(values)]
    return CriticalityReport(
        rows, "8/255", 0.01, 10, "linf", 50, "numel", "output", "weakness", 0, 0.9, 0.5
    )  # fmt: skip


VALUES = [0.3, 2.0, 0.1, 5.0, 1.0]


def test_the_same_order_is_one_and_the_reverse_minus_one() -> None:
    same, reverse = [100 * v**3 for v in VALUES], [1 / v for v in VALUES]
    found = compare_rankings([ranking(VALUES), ranking(same, "activation"), ranking(reverse, "rewinding")])
    assert found.names == ["mrc", "activation", "rewinding"]
    for matrix in (found.spearman, found.kendall):
        assert matrix == [pytest.approx(row) for row in ([1, 1, -1], [1, 1, -1], [-1, -1, 1])]
    assert found.ranks[0] == found.ranks[1] == [4, 2, 5, 1, 3]
    assert found.ranks[2] == [2, 4, 1, 5, 3]


def test_by_hand_with_ties_and_infinity() -> None:
    one, two = [1.0, 2.0, 2.0, 4.0], [math.inf, 0.0, 3.0, 1.0]
    found = compare_rankings([ranking(one), ranking(two)])
    assert found.names == ["mrc 1", "mrc 2"]
    assert found.ranks == [[4, 2.5, 2.5, 1], [1, 4, 2, 3]]
    assert found.spearman[0][1] == pytest.approx(spearmanr([4, 2.5, 2.5, 1], [1, 4, 2, 3]).statistic)
    # 6 pairs: concordant 1 (2 with 4), discordant 4, one tied in the first
    assert found.kendall[0][1] == pytest.approx((1 - 4) / math.sqrt(5 * 6))
    assert found.kendall[0][1] == pytest.approx(kendalltau(one, [9, 0, 3, 1]).statistic)


def test_the_first_layer_of_clats_criticality_is_not_compared() -> None:
    found = compare_rankings([criticality([1e-9, *VALUES]), ranking([math.inf, *VALUES])])
    assert found.ranks[0] == [None, 4, 2, 5, 1, 3]
    assert found.ranks[1] == [1, 5, 3, 6, 2, 4]
    assert found.spearman[0][1] == pytest.approx(1)
    assert [row.name for row in found.top(0, 2)] == ["conv5", "conv3"]
    assert [row.name for row in found.top(0, 9)][-1] == "conv4"
    undefined = compare_rankings([criticality([1.0, math.nan, 3.0, 4.0]), ranking([1.0, 2.0, 3.0, 4.0])])
    assert undefined.ranks[0] == [None, None, 2, 1]


def test_no_correlation_where_there_is_nothing_to_order() -> None:
    flat = compare_rankings([ranking([1.0, 1.0, 1.0]), ranking([1.0, 2.0, 3.0])])
    assert flat.spearman[0] == [None, None]
    assert "-" in str(flat)
    single = compare_rankings([ranking([1.0]), ranking([2.0])])
    assert single.kendall == [[None, None], [None, None]]


def test_only_common_layers_by_name() -> None:
    names = ["shortcut", "conv3", "conv1", "conv2", "fc"]
    found = compare_rankings([ranking([1.0, 2.0, 3.0]), ranking([9.0, 1.0, 3.0, 2.0, 8.0], "activation", names)])
    assert [row.name for row in found.layers] == ["conv1", "conv2", "conv3"]
    assert found.ranks == [[3, 2, 1], [1, 2, 3]]


def test_what_it_shows_and_writes(tmp_path: Path) -> None:
    found = compare_rankings([ranking(VALUES), ranking(VALUES[::-1], "rewinding-drop")])
    assert "*1" in str(found.table(top=1).columns[2]._cells)
    text = str(found)
    assert "mrc, rewinding-drop" in text
    assert list(found.tops(2).columns[1].cells) == ["4 conv4, 2 conv2", "2 conv2, 4 conv4"]
    found.to_json(tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["what"] == "ranking comparison"
    assert data["ranks"]["mrc"] == [4, 2, 5, 1, 3]
    assert [report["ranking"] for report in data["reports"]] == ["mrc", "rewinding-drop"]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ClatError, match="at least two"):
        compare_rankings([ranking([1.0])])
    with pytest.raises(ClatError, match="no layer in common"):
        compare_rankings([ranking([1.0]), ranking([1.0], layers=["other"])])


def test_a_report_in_order_and_on_file(tmp_path: Path) -> None:
    report = ranking([0.3, 2.0, math.inf, 2.0])
    assert report.top(4) == ["conv3", "conv2", "conv4", "conv1"]
    assert report.bottom(2) == ["conv1", "conv4"]
    for wrong in (0, 5):
        with pytest.raises(ClatError, match=f"k is {wrong}: expected 1 to 4"):
            report.bottom(wrong)
    report.to_json(tmp_path / "r.json")
    back = RankingReport.from_json(tmp_path / "r.json")
    assert back == report
    assert back.cost == report.cost
    text = str(report)
    assert "inf" in text
    assert "7 forwards" in text


def test_what_is_not_finite_comes_back_as_it_was(tmp_path: Path) -> None:
    report = ranking([0.3, math.nan, -math.inf, math.inf])
    report.to_json(tmp_path / "r.json")
    assert RankingReport.from_json(tmp_path / "r.json").top(4) == report.top(4)
    held = (tmp_path / "r.json").read_text()
    assert "NaN" not in held
    (tmp_path / "r.json").write_text(held.replace('"inf"', "null"))  # as earlier versions wrote it
    assert RankingReport.from_json(tmp_path / "r.json").rows[3].value == math.inf


@pytest.mark.parametrize("text", ["", "[]", '{"what": "ranking"}', '{"what": "criticality", "rows": []}'])
def test_a_file_that_is_no_report(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ClatError, match=r"other\.json is not a report of a ranking"):
        RankingReport.from_json(path)


def test_the_bottom_of_the_criticality_leaves_layer_1_out() -> None:
    report: Any = criticality([0.0, 3.0, 0.5, 2.0])
    assert report.bottom(3) == ["conv3", "conv4", "conv2"]
    with pytest.raises(ClatError, match="expected 1 to 3, the number of layers whose"):
        report.bottom(4)
