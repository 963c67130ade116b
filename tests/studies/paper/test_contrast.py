"""CLAT's choice of layers against another one, where a table prints both beside X."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clat.studies.paper.cells import Cell
from clat.studies.paper.contrast import contrasts, sentences
from clat.studies.paper.printed import printed_in

RIGHT = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
PRINTED = {one.layers: one for one in printed_in("clat-v2", "T20") if one.metric == "clean_accuracy" and one.layers}


def cell(layers: str, verdicts: np.ndarray | None, **more: object) -> Cell:
    given = {"kind": "clean", "attack": "clat-pgd-10, eps 0.03", "seeds": (0, 1), "images": ("a", "b")}
    row = f"pgd-at+clat, {layers}" if layers else "pgd-at"
    return Cell(dataset="cifar10", network="resnet18", row=row, verdicts=verdicts, **{**given, **more})


def test_critical_less_smallest_is_the_mean_of_the_paired_differences():
    most, least = cell("critical", RIGHT), cell("smallest", np.zeros_like(RIGHT))
    (found,) = contrasts([cell("", RIGHT), replace(most, against="pgd-at"), least])
    assert found.effect.value == pytest.approx(0.5)
    assert found.to_dict()["against"] == "pgd-at+clat, smallest"
    assert sentences([found]).startswith("cifar10, resnet18: critical less smallest: clean +50.0 [")


def test_the_papers_own_difference_stands_beside_it():
    most = cell("critical", RIGHT, printed=PRINTED["critical"])
    (found,) = contrasts([most, cell("smallest", RIGHT, printed=PRINTED["smallest"])])
    assert found.printed == pytest.approx(83.89 - 82.56)
    assert "(paper +1.3)." in sentences([found])


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
