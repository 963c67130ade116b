"""The page with pictures: of a hardening's folder, and of one evaluation; class by class; in words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clat.core.formatting import SPACE
from clat.evaluation.gallery import ONE, Gallery, Picture, View
from clat.evaluation.result import EvaluationRecord
from clat.report.classes import ROWS, class_section
from clat.report.evaluation_page import write_evaluation_page
from clat.report.outcome import outcome
from clat.report.page import _by_class, write_report
from clat.report.reading import read_run
from helpers import run_folders as fake
from helpers.html_page import Page

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def bits(flags: Sequence[bool]) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def record(label: str, correct: Sequence[bool], robust: Sequence[bool], **more: Any) -> dict[str, Any]:
    """A result with its verdicts."""
    n = len(correct)
    found: dict[str, Any] = fake.evaluation(label, sum(correct) / n, sum(robust) / n, n)
    return found | {"correct": bits(correct), "robust": bits(robust), "images": "0123abcd", **more}


def gallery(networks: Sequence[str], kinds: Sequence[str]) -> Gallery:
    view = View(
        clean=[("cat", 0.9), ("<b>dog</b>", 0.1)], attacked=[("<b>dog</b>", 0.8), ("cat", 0.2)], attack="apgd-t",
        right=True, robust=False, change=PIXEL, example=PIXEL, factor=15.94,
    )  # fmt: skip
    pictures = [
        Picture(number=i, label="cat", kind=kind, image=PIXEL, views=[view] * len(networks))
        for i, kind in enumerate(kinds)
    ]
    return Gallery(
        networks=list(networks),
        setting="standard, linf eps 8/255",
        counts=dict.fromkeys(kinds, 40),
        pictures=pictures,
    )


def hardened(path: Path, after_robust: Sequence[bool]) -> Path:
    folder: Path = fake.write_run(path)
    for file in (folder / "evaluations").iterdir():
        file.unlink()
    n = len(after_robust)
    classes = {"labels": " ".join("01"[i % 2] for i in range(n)), "classes": ["cat", "dog"]}
    before = record("before", [True] * n, [i < n // 10 for i in range(n)], **classes, predicted=" ".join(["1"] * n))
    after = record("after", [i > 1 for i in range(n)], after_robust, **classes, predicted=" ".join(["0"] * n))
    fake.write_json(folder / "evaluations" / "before.json", before)
    fake.write_json(folder / "evaluations" / "after.json", after)
    gallery(["before hardening", "after hardening"], ["gained", "lost", "fooled", "withstood"]).to_json(
        folder / "gallery.json"
    )
    return folder


def test_a_hardenings_first_sentence_is_the_paired_result(tmp_path: Path) -> None:
    """80 images gained and none lost of 200, by two stages of 15 epochs."""
    run = read_run(hardened(tmp_path / "run", [i < 100 for i in range(200)]))
    assert run.notices == []
    assert outcome(run).replace(SPACE, " ") == (
        "Hardened for 30 epochs, robust accuracy went from 10.0 % to 50.0 % (pgd-20 at linf eps 8/255: +40.0 "
        "points on the same 200 images, 95 % interval +32.7 to +46.5, McNemar p < 0.0001), and clean accuracy from "
        "100.0 % to 99.0 % (−1.0 points on the same 200 images, 95 % interval −2.9 to +0.9, McNemar p = 0.5: no "
        "difference that the paired test tells from chance)."
    )


def test_a_paired_test_settles_what_overlapping_intervals_do_not(tmp_path: Path) -> None:
    """Nine more of 1000 and none fewer: the intervals overlap, yet McNemar's p is 2 / 512."""
    folder = fake.write_run(tmp_path / "run")
    for label, count in (("stage-1", 341), ("last", 350)):
        verdicts = record(label, [True] * 1000, [i < count for i in range(1000)])
        fake.write_json(folder / "evaluations" / f"{label}.json", verdicts)
    said = outcome(read_run(folder)).replace(SPACE, " ")
    assert "not settled" not in said
    assert "+0.9 points on the same 1,000 images, 95 % interval +0.3 to +1.5, McNemar p = 0.0039" in said


def test_the_page_of_a_hardening(tmp_path: Path) -> None:
    source = write_report(hardened(tmp_path / "run", [i < 100 for i in range(200)])).read_text(encoding="utf-8")
    page = Page(source)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert page.tags.count("article") == 4
    assert page.tags.count("img") == 4 * 2 * 3
    assert page.tags.count("input") == 5
    assert source.count('name="kind"') == 5
    for words in (
        "Lost 40", "Gained 40", "change × 16", "fooled by apgd-t", "✗ <b>dog</b> 80 %", "✓ cat 90 %",
        "before hardening", "What is taken for what under attack", "cat 100 100 → 99 % 10 → 50 %",
        "Robust neither before nor after 40",
    ):  # fmt: skip
        assert words in page.text, words
    assert re.search(r'<p class="outcome">Hardened for 30 epochs', source)


def test_a_damaged_gallery_is_a_notice(tmp_path: Path) -> None:
    folder = hardened(tmp_path / "run", [True] * 20)
    (folder / "gallery.json").write_text('{"pictures": 1}')
    words = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "gallery.json holds no gallery that this version can show" in words
    assert "Look closer" not in words


def test_the_page_of_an_evaluation(tmp_path: Path) -> None:
    data = record(
        "x", [True] * 100, [i < 30 for i in range(100)], labels=" ".join(["0"] * 100), notes=["<i>odd</i>"]
    )
    path = write_evaluation_page(
        EvaluationRecord.from_dict(data), gallery(["the network"], list(ONE)), tmp_path / "page.html"
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("article") == 3
    for words in (
        "Under pgd-20 at linf eps 8/255 the network stays right on 30.0 % of 100 images",
        "Fooled by the attack 40", "<i>odd</i>", "resnet18", "ab12cd34",
    ):  # fmt: skip
        assert words in page.text, words
    assert not {"script", "link", "i"} & set(page.tags)


def results(labels: torch.Tensor, predicted: torch.Tensor, **more: Any) -> EvaluationRecord:
    right = labels == predicted
    flags = {"correct": bits(right.tolist()), "robust": bits(right.tolist())}
    numbers = {"labels": " ".join(map(str, labels.tolist())), "predicted": " ".join(map(str, predicted.tolist()))}
    return EvaluationRecord.from_dict({**flags, **numbers, **more})


def test_few_classes_have_a_matrix() -> None:
    found = class_section(
        [("n", results(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), classes=["a", "b"]))]
    )
    assert found is not None
    assert found.confused[0].cells == [[0.5, 0.5], [0.0, 1.0]]
    assert [(row.name, row.n, row.accuracies) for row in found.rows] == [
        ("a", 2, [(0.5, 0.5)]),
        ("b", 2, [(1.0, 1.0)]),
    ]


def test_many_classes_have_the_worst_rows_and_the_most_frequent_mistakes() -> None:
    labels = torch.arange(50).repeat_interleave(2)
    predicted = labels.clone()
    predicted[[0, 1, 20]] = 7
    found = class_section([("n", results(labels, predicted))])
    assert found is not None
    assert len(found.rows) == ROWS
    assert found.left_out == 50 - ROWS
    assert [row.name for row in found.rows[:2]] == ["0", "10"]
    assert found.confused[0].pairs == [("0", "7", 2, 1.0), ("10", "7", 1, 0.5)]


def test_results_without_classes_say_nothing_class_by_class() -> None:
    assert class_section([("n", EvaluationRecord.from_dict(fake.evaluation("last", 0.5, 0.3)))]) is None
    assert class_section([]) is None
    torn = {"labels": "0 1 2", "correct": "11", "robust": "11"}
    assert class_section([("n", EvaluationRecord.from_dict(torn))]) is None


def test_classes_of_other_images_do_not_stand_beside_one_another(tmp_path: Path) -> None:
    run = fake.write_run(tmp_path / "run")
    bits = {"correct": "1101", "robust": "1000", "labels": "0 1 0 1", "classes": ["a", "b"]}
    for name, images in (("stage-1", "aa"), ("last", "aa")):
        file = run / "evaluations" / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **bits, "n": 4, "images": images}))
    alike = _by_class(read_run(run))
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "images": "bb"}))
    other = _by_class(read_run(run))
    assert alike is not None
    assert other is not None
    assert (len(alike.networks), len(other.networks)) == (2, 1)
