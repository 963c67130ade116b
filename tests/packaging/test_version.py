"""One version, said in one place, and what the package index shows of the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import clat
from clat.core.environment import describe_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_said_once(project: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", clat.__version__)
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "clat.core.version.__version__"}
    assert f"\nversion: {clat.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f" version = {{{clat.__version__}}}\n" in (ROOT / "docs" / "index.md").read_text()
    assert describe_environment()["clat"] == clat.__version__


def test_what_the_index_shows(project: dict[str, Any]) -> None:
    shown = project["project"]
    assert shown["name"] == "torch-clat"
    assert shown["authors"] == [{"name": "clat contributors"}]
    pythons = [line.rpartition(" ")[2] for line in shown["classifiers"] if "Python :: 3." in line]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert f"python: {pythons}".replace("'", '"') in workflow, "what is promised is tested"
    assert {"timm", "hf", "ray", "trackers", "onnx", "corruptions", "docs", "dev"} == set(
        shown["optional-dependencies"]
    )


def test_hints_name_extras_that_there_are(project: dict[str, Any]) -> None:
    extras = set(project["project"]["optional-dependencies"])
    files = [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    hints = [
        (path, name, named)
        for path in files
        for name, named in re.findall(r"pip install '?([\w.-]+)\[([\w,-]+)\]", path.read_text())
    ]
    assert hints
    for path, name, named in hints:
        assert name == ".", f"{path}: the package is on no index yet"
        assert set(named.split(",")) <= extras, path


def test_what_an_error_says_to_install_is_what_the_extras_ask_for(project: dict[str, Any]) -> None:
    asked = project["project"]["optional-dependencies"].values()
    known = {"shtab"} | {re.split(r"[<>=\[]", one)[0] for group in asked for one in group}
    hints = [
        (path, name)
        for path in (ROOT / "src").rglob("*.py")
        for names in re.findall(r"pip install ((?:[a-z][\w-]*(?: |\b))+)", path.read_text())
        for name in names.split()
    ]
    assert {name for _, name in hints} >= {"timm", "transformers", "ray", "onnxruntime"}
    for path, name in hints:
        assert name in known, f"{path}: {name}"
