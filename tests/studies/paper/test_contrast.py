"""CLAT's choice of layers against another one, where a table prints both beside X."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clat.studies.paper.cells import Cell
from clat.studies.paper.contrast import contrasts, sentences, sweep_contrasts
from clat.studies.paper.methods import AVERAGED
from clat.studies.paper.printed import printed_in

RIGHT = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
PRINTED = {one.layers: one for one in printed_in("clat-v2", "T20") if one.metric == "clean_accuracy" and one.layers}


def cell(layers: str, verdicts: np.ndarray | None, **more: object) -> Cell:
    given = {"kind": "clean", "attack": "clat-pgd-10, eps 0.03", "seeds": (0, 1), "images": ("a", "b")}
    row = f"pgd-at+clat, {layers}" if layers else "pgd-at"
    return Cell(dataset="cifar10", network="resnet18", row=row, verdicts=verdicts, **{**given, **more})


def test_critical_less_smallest_is_the_mean_of_the_paired_differences():
    most, least = cell("critical", RIGHT), cell("smallest", np.zeros_like(RIGHT))
    (found,) = contrasts([cell("", RIGHT), replace(most, against="pgd-at"), replace(least, against="pgd-at")])
    assert found.effect.value == pytest.approx(0.5)
    assert found.to_dict()["against"] == "pgd-at+clat, smallest"
    assert sentences([found]).startswith("cifar10, resnet18: critical less smallest: clean +50.0 [")


def test_clat_is_set_against_x_and_against_averaged_weights():
    """Where the table's own effect is against other layers, or the paper prints neither."""
    x, averaged = cell("", np.ones_like(RIGHT)), replace(cell("", RIGHT), row="ema")
    random = cell("random", RIGHT)
    found = contrasts([x, replace(cell("critical", RIGHT), against=random.row), random, averaged])
    assert [one.other.row for one in found] == ["pgd-at", "ema"]
    assert [one.effect.value for one in found] == [pytest.approx(-0.5), 0.0]
    assert sentences(found).startswith("cifar10, resnet18: pgd-at+clat, critical less pgd-at: clean −50.0 [")
    assert contrasts([x, random, averaged]) == [], "random layers are a control themselves"


def test_a_sweep_sets_the_papers_number_of_layers_against_the_others():
    rows = {"PGD-AT": RIGHT, AVERAGED: RIGHT, "k = 1": RIGHT, "k = 2": np.zeros_like(RIGHT)}
    cells = [replace(cell("", verdicts), row=row) for row, verdicts in rows.items()]
    cells[2] = replace(cells[2], against="PGD-AT")
    found = sweep_contrasts(cells)
    assert [(one.cell.row, one.other.row) for one in found] == [("k = 1", AVERAGED), ("k = 1", "k = 2")]
    assert found[1].effect.value == pytest.approx(0.5)


def test_a_difference_of_flagged_numbers_says_so():
    flagged = {one.layers: one for one in printed_in("clat-v2", "T20") if one.attack == "pgd-10"}
    most = cell("critical", RIGHT, printed=flagged["critical"])
    (found,) = contrasts([most, cell("smallest", RIGHT, printed=flagged["smallest"])])
    assert "(paper +1.4, contradiction)." in sentences([found])


def test_the_papers_own_difference_stands_beside_it():
    most = cell("critical", RIGHT, printed=PRINTED["critical"])
    (found,) = contrasts([most, cell("smallest", RIGHT, printed=PRINTED["smallest"])])
    assert found.printed == pytest.approx(83.89 - 82.56)
    assert "(paper +1.3, contradiction)." in sentences([found])


def test_what_a_line_is_compared_with_already_is_not_said_again():
    most, random = cell("critical", RIGHT), cell("random", RIGHT)
    assert contrasts([replace(most, against=random.row), random]) == []


@pytest.mark.parametrize("other", [{"images": ("c", "d")}, {"seeds": (2, 3)}, {"kind": "robust"}])
def test_what_was_measured_otherwise_is_not_compared(other):
    assert contrasts([cell("critical", RIGHT), cell("smallest", RIGHT, **other)]) == []


def test_unmeasured_layers_and_other_methods_have_no_contrast():
    most = cell("critical", RIGHT)
    assert contrasts([most, cell("smallest", None)]) == []
    assert contrasts([most, replace(cell("smallest", RIGHT), row="trades+clat, smallest")]) == []
    assert sentences([]) == ""
