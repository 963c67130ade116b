"""What a notebook shows: tables with nothing in them that a name could break, short, and no number of its own."""

from __future__ import annotations

import re

import torch
from torch import nn

import clat
from clat.core.console import Table
from clat.core.notebook import MOST_ROWS, html_of, html_table
from clat.evaluation import EvaluationRecord
from helpers.html_page import Page


def test_a_table_is_escaped_and_short():
    shown = html_table(["<b>", "x"], [(f"<i>{row}", row) for row in range(MOST_ROWS + 3)], caption="a & b")
    assert "<i>" not in shown
    assert "&lt;i&gt;19" in shown
    assert "&lt;i&gt;20" not in shown
    assert "and 3 more rows" in shown
    assert "a &amp; b" in shown


def test_a_table_of_the_terminal_keeps_its_texts_and_sides():
    table = Table(title="[bold]", caption="below")
    table.add_column("name")
    table.add_column("value", justify="right")
    table.add_row("[red]a", "1")
    shown = html_of(table)
    assert Page(shown).text.split() == ["[bold]", "name", "value", "[red]a", "1", "below"]
    assert '<td style="text-align:right">1</td>' in shown


def test_what_is_displayed():
    digits = clat.load_split("digits", "test").take(20)
    shown = digits._repr_html_()
    assert "20 images of 8 x 8 pixels" in shown
    assert shown.count("<img") == 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 10)).eval()
    x, y = digits.images.float() / 255, digits.labels
    result = clat.evaluate(model, x, y, protocol="pgd-10", eps="0.1")
    record = EvaluationRecord.from_dict(result.to_dict(), "mine")
    for one in (result, record):
        assert str(one.robust_accuracy) in one._repr_html_()
    assert repr(digits) == "ImageSet('digits', 'test', 20 images 3x8x8 uint8, 10 classes)"
    assert re.fullmatch(r"clean [\d.]+% \[\S+ \S+\]  pgd-10 robust .*\(n = 20\), linf eps 0.1", str(result))
    assert "McNemar, exact" in str(clat.compare(result, result))
    for report in (
        clat.measure_criticality(model, x, y, eps="0.1"),
        clat.compare(result, result),
        clat.eps_curve(model, x, y, eps=["0", "0.1"], protocol="pgd-10"),
    ):
        assert "<table>" in report._repr_html_()
