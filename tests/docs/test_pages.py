"""The documentation holds together: its links, the tests that invariants cite, the names that API pages cover."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import clat

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\(([^)\s#]+)")
CITED = re.compile(r"`(tests/\S+?\.py)::(\w+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    targets = [target for target in LINK.findall(page.read_text()) if not re.match(r"\w+:", target)]
    assert [target for target in targets if not (page.parent / target).is_file()] == []


def test_no_page_is_too_long_to_read():
    written = [page for page in PAGES if "results" not in page.parts and page.name != "CHANGELOG.md"]
    assert [name(page) for page in written if len(page.read_text().splitlines()) > 200] == []


def test_each_invariant_stands_beside_a_test_that_exists():
    invariants = re.split(r"^\d+\. ", section("The ten invariants"), flags=re.M)[1:]
    assert len(invariants) == 10
    for invariant in invariants:
        cited = CITED.findall(invariant)
        assert cited, invariant
        for file, function in cited:
            tree = ast.parse((ROOT / file).read_text())
            tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in tests, file


def test_every_package_is_in_the_table_and_in_the_picture():
    rooms = {folder.parent.name for folder in (ROOT / "src" / "clat").glob("*/__init__.py")}
    picture = (ROOT / "docs" / "assets" / "rooms.svg").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", section("The packages"), flags=re.M)) == rooms
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', picture)) == rooms


def test_the_api_pages_cover_every_public_name():
    hooks = load_hooks()
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = [resolve(path) for found in hooks.LINE.finditer(pages) for path in hooks.shown(found)]
    assert [target for target in shown if sum(other is target for other in shown) > 1] == []
    packages = [clat, *(info.name for info in pkgutil.walk_packages(clat.__path__, "clat.") if info.ispkg)]
    for package in (importlib.import_module(one) if isinstance(one, str) else one for one in packages):
        for public in getattr(package, "__all__", ()):
            target = getattr(package, public)
            assert isinstance(target, ModuleType) or any(target is other for other in shown), (package, public)


def section(title: str) -> str:
    """A section of the architecture page."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks


def resolve(path: str) -> object:
    package, _, public = path.rpartition(".")
    return getattr(importlib.import_module(package), public)
