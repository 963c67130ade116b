"""Figures: what they draw, that they are written whole and the same each time, and that labels have room."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from clat.core.errors import ClatError
from clat.report.heatmap import criticality_map
from clat.report.inline import inline_plot, inline_svg
from clat.report.plots import ORANGE, criticality_bars, label_rows, save_figure
from clat.report.widths import SMALLEST, for_phone
from helpers import run_folders as fake


def test_selected_bars_are_coloured_and_the_first_layer_is_hatched() -> None:
    report = fake.criticality(16, 18)
    axes = criticality_bars(report, ["layer3.0.conv1"]).axes[0]
    coloured = [bar for bar in axes.patches if to_hex(bar.get_facecolor()) == ORANGE.lower()]
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in coloured] == [9]
    assert [bar.get_hatch() is not None for bar in axes.patches].count(True) == 1
    texts = " ".join(text.get_text() for text in axes.texts)
    assert "W = 0.00012" in texts
    assert "∞" in texts


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"weakness": 0.1}, "∞"),
        ({"weakness": 0.0}, "undefined"),
        ({"weakness": 0.1, "input_weakness": 0.0}, "undefined"),
        ({"weakness": None}, "not measured"),
    ],
)
def test_a_criticality_that_is_no_number_says_why(row: dict[str, float | None], said: str) -> None:
    report = fake.criticality(16, 18)
    for one in report["rows"]:
        one["criticality"] = 1.5
    report["rows"][7] |= {"criticality": None, **row}
    texts = [text.get_text() for text in criticality_bars(report, []).axes[0].texts]
    assert said in texts
    assert not {"∞", "undefined", "not measured"} & set(texts) - {said}


def test_where_layers_are_compared_with_their_input_the_first_has_a_bar_too() -> None:
    report = {**fake.criticality(16, 18), "predecessor": "input"}
    axes = criticality_bars(report, []).axes[0]
    assert not any(bar.get_hatch() for bar in axes.patches)
    assert {round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches} == set(range(18)) - {5}
    assert "what enters the layer" in axes.get_xlabel()
    (mesh,) = criticality_map({16: report}, {}).axes[0].collections
    assert not mesh.get_array().mask.ravel()[0]
    (mesh,) = criticality_map({16: fake.criticality(16, 18)}, {}).axes[0].collections
    assert mesh.get_array().mask.ravel()[0]


def test_one_huge_value_switches_to_a_logarithmic_axis() -> None:
    report = fake.criticality(16, 18)
    assert criticality_bars(report, []).axes[0].get_xscale() == "linear"
    report["rows"][3]["criticality"] = 500.0
    assert criticality_bars(report, []).axes[0].get_xscale() == "log"


def test_a_large_first_value_does_not_stretch_the_axis() -> None:
    report = fake.criticality(16, 18)
    report["rows"][0]["criticality"] = 1e6
    assert criticality_bars(report, []).axes[0].get_xlim()[1] < 5


@pytest.mark.parametrize("layers", [1, 2, 18, 54, 120])
def test_labels_of_layers_never_touch(layers: int) -> None:
    report = fake.criticality(16, layers)
    names = [row["name"] for row in report["rows"]]
    figure = criticality_bars(report, names[3:4] + names[60:62])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)


def test_the_map_outlines_what_was_selected() -> None:
    reports = {epoch: fake.criticality(epoch, 18) for epoch in (16, 21, 26)}
    selected = {16: ["layer3.0.conv1", "fc"], 21: ["fc", "no such layer"], 26: ["layer3.0.conv1"]}
    frames = criticality_map(reports, selected).axes[0].patches
    found = [(frame.get_x(), frame.get_y(), frame.get_width()) for frame in frames]
    assert found == [(-0.5, 8.5, 1), (1.5, 8.5, 1), (-0.5, 16.5, 2)]


def test_the_map_shows_the_layers_of_all_selections_and_no_w_beside_c() -> None:
    def report(*names: str, predecessor: str = "forward") -> dict[str, Any]:
        rows = [{"name": name, "criticality": 1e-5 if i == 0 else 2.0} for i, name in enumerate(names)]
        return {"rows": rows, "predecessor": predecessor}

    reports = {1: report("b", "d"), 2: report("a", "b", "c"), 3: report("c", "d", "e", predecessor="input")}
    axes = criticality_map(reports, {3: ["e"]}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{i} · {n}" for i, n in enumerate("abcde", 1)
    ]
    shown = np.ma.getmaskarray(axes.collections[0].get_array()).reshape(5, 3)
    assert (~shown).tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]
    assert [(frame.get_x(), frame.get_y()) for frame in axes.patches] == [(1.5, 3.5)]


def test_a_map_without_any_number_is_drawn_all_the_same(tmp_path: Path) -> None:
    report = fake.criticality(16, 3)
    for row in report["rows"]:
        row["criticality"] = None
    save_figure(criticality_map({1: report, 2: report}, {}), tmp_path / "map.svg")
    save_figure(criticality_bars(report, []), tmp_path / "bars.svg")


def test_the_important_rows_are_labelled_first() -> None:
    assert label_rows(9, [4], gap=3) == [0, 4, 7]
    assert label_rows(4, [], gap=1) == [0, 1, 2, 3]
    assert 61 in label_rows(120, [61], gap=2)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for path in paths:
            assert save_figure(criticality_bars(fake.criticality(16, 18), ["fc"]), path) == path
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "0.svg", "1.png", "1.svg"]


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(criticality_bars(fake.criticality(16, 18), []), tmp_path / "bars.svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "absent/plot.svg"])
def test_a_plot_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClatError, match="plot"):
        save_figure(criticality_bars(fake.criticality(16, 18), []), tmp_path / name)


def test_an_inline_plot_keeps_its_ids_to_itself() -> None:
    svg = inline_svg(criticality_bars(fake.criticality(16, 18), []), "bars", 'a "plot" & more')
    root = ElementTree.fromstring(svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert all(name and name.startswith("bars-") for name in ids)
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert used
    assert set(used) <= set(ids)
    assert root.get("aria-label") == 'a "plot" & more'
    assert "<style" not in svg


@pytest.mark.parametrize("layers", [2, 18, 120])
def test_a_plot_for_a_phone_is_narrow_and_readable(layers: int) -> None:
    """Eleven pixels at a width of 328: letters of SMALLEST points on a figure of NARROW inches."""
    report = fake.criticality(16, layers)
    with for_phone():
        figure = criticality_bars(report, [report["rows"][-1]["name"]])
    figure.draw_without_rendering()
    assert 328 / (72 * figure.get_figwidth()) * SMALLEST > 11
    sizes = [text.get_fontsize() for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())]
    assert min(sizes) >= SMALLEST
    right = [text.get_window_extent().x1 for axes in figure.axes for text in (*axes.texts, axes.xaxis.label)]
    assert max(right) <= figure.bbox.x1 + 1


def test_an_inline_plot_comes_for_both_screens_in_the_pages_colours() -> None:
    report = fake.criticality(16, 18)
    source = inline_plot(lambda: criticality_bars(report, ["fc"]), "bars", "bars of layers")
    assert source.count("<svg") == 2
    assert 'class="wide"' in source
    assert 'class="narrow"' in source
    assert ORANGE.lower() not in source.lower()
    assert "var(--orange)" in source
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
