"""The page: parses, fetches nothing, holds the numbers, escapes names, and is the same each time."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from clat.core.errors import ClatError
from clat.report.page import write_report
from clat.training.lock import only_one_in
from helpers import run_folders as fake
from helpers.html_page import Page


def page_of(run_dir: Path, *against: Path) -> Page:
    return Page(write_report(run_dir, against=against).read_text(encoding="utf-8"))


@pytest.mark.parametrize("layers", [18, 120])
def test_the_page_is_well_formed_and_fetches_nothing(tmp_path: Path, layers: int) -> None:
    path = write_report(fake.write_run(tmp_path / "run", layers=layers))
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert path == tmp_path / "run" / "report.html"
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert page.tags.count("svg") == 2 * 5, "each plot for a wide screen and for a phone"
    assert len(set(page.ids)) == len(page.ids)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", source)
    assert not re.search(r"https?://|@import|url\((?!#)", without_namespaces)


def test_the_numbers_are_on_the_page(run_dir: Path) -> None:
    words = page_of(run_dir).text
    for expected in (
        "pgd-at + clat",
        "robust accuracy went from 34.1 % to 35.0 %",
        "after stage 1 (pgd-at)",
        "last (epoch 30)",
        "32.0 to 38.0 %",
        "1,000",
        "589,824 of 11,173,962",
        "1,234,567",
        "1,100,000",
        "3.0 GiB",
        "6 min 03 s",
        "catastrophic-overfitting",
        "held-out robust accuracy fell",
        "ab12cd34",
        "0f1e2d3c",
        "W = 0.00012",
        "10 · layer3.0.conv1",
        "robust overfitting of",
        'selection = { rule = "critical", k = 0.05, every = 5 }',
        "How to read this.",
    ):
        assert expected in words, expected
    assert "Missing from this page" not in words


def test_attack_by_attack_is_what_is_left_after_each(run_dir: Path) -> None:
    words = page_of(run_dir).text
    assert "Model After Robust 95 % interval" in words
    assert "a row is what is left after it and all above it" in words


def test_what_qualifies_an_accuracy_stands_below_it(run_dir: Path) -> None:
    for label, notes in (("stage-1", ["of both"]), ("best", ["of both"]), ("last", ["of both", "of the last"])):
        file = run_dir / "evaluations" / f"{label}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"notes": notes}))
    words = page_of(run_dir).text
    assert words.count("of both") == 1
    assert "last (epoch 30): of the last" in words


def test_the_norm_stands_beside_eps(run_dir: Path) -> None:
    recipe = run_dir / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('eps = "8/255"', 'eps = "0.5"\nnorm = "l2"', 1))
    for file in (run_dir / "evaluations").iterdir():
        data = json.loads(file.read_text())
        said = {"protocol": data["protocol"] | {"norm": "l2"}, "eps": {"text": "0.5", "value": 0.5}}
        file.write_text(json.dumps(data | said))
    words = page_of(run_dir).text
    assert "pgd-20 at l2 eps 0.5" in words
    assert words.count("pgd-20, l2 eps 0.5") == 3
    assert "Norm l2 eps 0.5" in " ".join(words.split())
    assert "linf" not in words


def test_sections_come_in_the_order_of_a_readers_questions(run_dir: Path) -> None:
    source = write_report(run_dir).read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", source)
    assert headings == [
        "Accuracy on the test split",
        "Criticality of the layers",
        "Training",
        "Cost",
        "Warnings",
        "How this was made",
    ]


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = "<b>&\"'$x_1$ 層"
    folder = fake.write_run(tmp_path / "run", name=evil)
    for path in folder.rglob("*.json*"):
        quoted = json.dumps(evil)[1:-1]
        text = path.read_text(encoding="utf-8")
        for plain in ('"clat"', '"fc"', '"pgd-20"', '"cross_entropy"', '"catastrophic-overfitting"', '"cpu"'):
            text = text.replace(plain + ":", "KEEP:").replace(plain, f'"{quoted}"').replace("KEEP:", plain + ":")
        path.write_text(text.replace('"cross_entropy"', f'"{quoted}"'), encoding="utf-8")
    other = fake.write_run(tmp_path / "other", name=evil)
    source = write_report(folder, against=[other]).read_text(encoding="utf-8")
    headers = source.count("<b>")
    plain = write_report(fake.write_run(tmp_path / "plain"), against=[other]).read_text(encoding="utf-8")
    assert headers == plain.count("<b>")
    assert evil not in source
    assert html.escape("<b>&") in source
    assert evil in Page(source).text


def test_twice_written_is_the_same_to_the_bit(tmp_path: Path) -> None:
    run, other = fake.write_run(tmp_path / "a"), fake.write_run(tmp_path / "b", name="other", lift=-0.03)
    first = write_report(run, against=[other]).read_bytes()
    assert write_report(run, against=[other], out=tmp_path / "again.html").read_bytes() == first
    assert not list(tmp_path.rglob("*.part"))


def test_only_a_page_of_clat_is_replaced(run_dir: Path, tmp_path: Path) -> None:
    for foreign in (run_dir / "run.json", tmp_path / "notes.md"):
        before = foreign.read_bytes() if foreign.exists() else b"mine"
        foreign.write_bytes(before)
        with pytest.raises(ClatError, match=f"{foreign.name} exists already and is no page of clat: name another"):
            write_report(run_dir, out=foreign)
        assert foreign.read_bytes() == before
    page = write_report(run_dir, out=tmp_path / "page.html").read_bytes()
    assert write_report(run_dir, out=tmp_path / "page.html").read_bytes() == page


def test_an_interrupted_run_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    words = page_of(fake.write_interrupted(tmp_path / "run")).text
    assert "This run is interrupted" in words
    assert "summary.json is missing" in words
    assert "No test result has been written yet." in words
    assert "No criticality was measured" in words
    assert "after epoch 3" in words


def test_a_run_that_died_is_told_from_one_that_still_runs(tmp_path: Path) -> None:
    run = fake.write_interrupted(tmp_path / "run")
    (run / "run.json").write_text('{"status": "running"}')
    words = page_of(run).text
    assert "This run died on its way" in words
    assert "it can be resumed" in words
    with only_one_in(run):
        words = page_of(run).text
        assert "This run is still running" in words
    assert "This run died on its way" in page_of(run).text


def test_any_one_file_may_be_missing(tmp_path: Path) -> None:
    names = [path.relative_to(tmp_path / "0") for path in fake.write_run(tmp_path / "0").rglob("*.*")]
    for i, name in enumerate(name for name in names if "criticality" not in name.parts[:1]):
        folder = fake.write_run(tmp_path / f"without-{i}")
        (folder / name).unlink()
        page_of(folder)


def test_a_run_before_its_first_epoch_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    words = page_of(tmp_path).text
    assert "This run has recorded no accuracy yet." in words
    assert "Nothing has been recorded yet." in words


def test_broken_values_do_not_break_the_page(run_dir: Path) -> None:
    records = [
        {
            "event": "epoch",
            "epoch": 31,
            "stage": 1,
            "loss": float("nan"),
            "parts": None,
            "heldout_robust": None,
        },
        {"event": "selection", "epoch": 31, "rule": "random"},
        {"event": "warning"},
        {"event": "something newer"},
    ]
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
    (run_dir / "summary.json").write_text('{"best": null, "cost": null, "stages": null}', encoding="utf-8")
    result = {"label": "last", "clean_accuracy": None, "robust_accuracy": {"value": 0.3}, "per_attack": None}
    (run_dir / "evaluations" / "last.json").write_text(json.dumps(result), encoding="utf-8")
    assert "30.0 %" in page_of(run_dir).text


def test_compared_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [fake.write_run(tmp_path / name, lift=lift) for name, lift in (("a", 0.0), ("b", -0.03), ("c", -0.06))]
    words = page_of(*runs).text
    assert "pgd-at + clat (a)" in words
    assert "the same, pgd-at + clat (c)" in words
    assert "at the same budget of 30 epochs pgd-at + clat (b) ends with" in words


def test_a_folder_that_is_no_run_is_refused_and_nothing_is_written(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClatError, match="is no run"):
        write_report(tmp_path / "empty")
    with pytest.raises(ClatError, match="is no run"):
        write_report(run_dir, against=[tmp_path / "empty"])
    assert not list(tmp_path.rglob("report.html"))


def test_a_place_that_cannot_be_written_is_one_clear_line(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ClatError, match=r"cannot write the page .*absent.*choose another place"):
        write_report(run_dir, out=tmp_path / "absent" / "page.html")
