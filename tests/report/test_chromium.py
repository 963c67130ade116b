"""The pages as a browser shows them: on a phone, wide, dark; the index's script. Skipped where Chromium is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clat.report.index import write_index
from helpers import run_folders as fake
from helpers.chromium import look

SCRIPT = """
const page = frames_["index-wide"].contentDocument;
const all = (what) => [...page.querySelectorAll(what)].filter((one) => !one.hasAttribute("hidden"));
const order = () => all("#runs tbody tr").map((row) => row.dataset.run);
const points = () => all('[id^="scatter-run-"]').length;
found.first = order();
page.querySelectorAll("#runs th button")[1].click();
found.byName = [order(), page.querySelectorAll("#runs th")[1].getAttribute("aria-sort")];
page.querySelectorAll("#runs th button")[1].click();
found.turned = order();
page.getElementById("filter").value = "TWO pgd-20";
page.getElementById("filter").dispatchEvent(new Event("input"));
found.filtered = [order(), points(), page.getElementById("shown").textContent];
found.tabbable = [...page.querySelectorAll("a, button, input, select")].every((one) => one.tabIndex >= 0);
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = [
        fake.write_run(root / "one", name="one", layers=18),
        fake.write_run(
            root / "two", name="two with a name that is much longer than most names are", robust=(0.3, 0.41)
        ),
        fake.write_interrupted(root / "half"),
    ]
    return {"run": runs[1] / "report.html", "index": write_index(runs)[0], "folder": root}


@pytest.fixture(scope="module")
def seen(pages: dict[str, Path]) -> dict[str, Any]:
    frames = {
        f"{name}-{size}": (pages[name], width)
        for name in ("run", "index")
        for size, width in (("phone", 390), ("wide", 1280))
    }
    found = look(pages["folder"], frames, SCRIPT)
    assert "error" not in found, found
    return found


@pytest.mark.parametrize("name", ["run", "index"])
def test_on_a_phone(seen, name):
    page = seen[f"{name}-phone"]
    assert page["width"] <= 390, "nothing to scroll sideways"
    assert page["sideways"] == []
    assert page["smallest"][0] >= 11, page["smallest"]


@pytest.mark.parametrize("name", ["run", "index"])
def test_on_a_wide_screen(seen, name):
    page = seen[f"{name}-wide"]
    assert page["width"] <= 1280
    assert page["sideways"] == []
    assert page["smallest"][0] >= 11, page["smallest"]


def test_the_index_sorts_and_filters(seen):
    assert seen["first"] == ["2", "1", "3"], "the most robust first, those without a result last"
    assert seen["byName"][1] == "ascending"
    assert seen["turned"] == seen["byName"][0][::-1]
    assert seen["filtered"] == [["2"], 1, "1 of 3 runs"]
    assert seen["tabbable"]


def test_dark(pages, seen):
    found = look(pages["folder"], {"run": (pages["run"], 390), "index": (pages["index"], 390)}, dark=True)
    for name in ("run", "index"):
        assert seen[f"{name}-phone"]["paper"] == "rgb(255, 255, 255)"
        assert found[name]["paper"] == "rgb(18, 23, 29)"
        assert found[name]["ink"] == "rgb(228, 233, 238)"
