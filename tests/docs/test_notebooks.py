"""The notebooks of the docs run, cell by cell, and show what they promise. `make docs` runs them in a kernel."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 120
"""Of processor time, that all of a notebook may take: the three are to be built in minutes."""


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(notebook.read_text())["cells"] if one["cell_type"] == kind]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, as a notebook displays it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_there_is_one_for_each_way_to_begin():
    assert [one.stem for one in NOTEBOOKS] == ["evaluate", "own-data", "own-model"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_it_is_stored_without_outputs(notebook):
    assert all(one["outputs"] == [] and one["execution_count"] is None for one in cells(notebook, "code"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_it_runs_and_shows_its_results(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    start = time.process_time()
    shown = [run("".join(one["source"]), names) for one in cells(notebook, "code")]
    assert time.process_time() - start < SECONDS
    pages = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert len(pages) >= 3, "results are shown as tables"
    assert any("<table>" in page for page in pages)
