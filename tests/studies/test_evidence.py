"""Evidence: how a form of CLAT is compared, and a whole regime in miniature."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from clat import cli
from clat.core.errors import ClatError
from clat.studies.evidence import table
from clat.studies.evidence.answer import answer
from clat.studies.evidence.comparison import CrossedDifference, compare, holm, standard_error
from clat.studies.evidence.judged import Judged, best_control, judge
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import REGIMES, EvidenceRow, find_regime
from clat.studies.paper import store
from clat.studies.paper.folder import claim
from clat.studies.paper.runs import Inputs, recipe
from clat.studies.paper.store import Store
from helpers.paper import TINY


def test_holm_corrects_as_published_and_in_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # the textbook's example
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_a_single_seed_the_test_is_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 1, 50))
    assert compare(a - b).p == pytest.approx(float(stats.ttest_rel(a[0], b[0]).pvalue))


def test_where_all_images_say_the_same_only_the_seeds_count():
    values = np.repeat([[0.1], [0.3], [0.2]], 40, axis=1)
    error, freedom = standard_error(values)
    assert error == pytest.approx(np.std([0.1, 0.3, 0.2], ddof=1) / np.sqrt(3))
    assert freedom == pytest.approx(2)


def test_where_all_seeds_say_the_same_only_the_images_count():
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 60)), 4, axis=0)
    error, freedom = standard_error(values)
    assert error == pytest.approx(values[0].std(ddof=1) / np.sqrt(60))
    assert freedom == pytest.approx(59)


def test_the_standard_error_is_that_of_drawing_seeds_and_images_anew():
    random = np.random.default_rng(2)
    seeds, images = 4, 80

    def draw():
        by_seed, by_image = 0.5 * random.normal(size=(seeds, 1)), random.normal(size=(1, images))
        return by_seed + by_image + random.normal(size=(seeds, images))

    drawn = [draw() for _ in range(2000)]
    spread = np.std([one.mean() for one in drawn])
    told = np.sqrt(np.mean([standard_error(one)[0] ** 2 for one in drawn]))
    assert told == pytest.approx(spread, rel=0.05)


def test_p_finds_no_difference_as_rarely_as_it_says_and_a_detectable_one_as_often():
    random = np.random.default_rng(3)

    def ps(shift):
        found = []
        for _ in range(400):
            values = shift + 0.3 * random.normal(size=(3, 1)) + random.normal(size=(3, 200))
            found.append(compare_fast(values))
        return np.array(found)

    false = (ps(0.0) < 0.05).mean()
    assert false <= 0.08
    error = np.sqrt(0.3**2 / 3 + 1 / 600)
    detectable = (stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * error
    assert (ps(detectable) < 0.05).mean() == pytest.approx(0.8, abs=0.12)


def compare_fast(values):
    """The p of `compare`, without its bootstrap."""
    error, freedom = standard_error(values)
    return 2 * stats.t.sf(abs(values.mean()) / error, freedom)


def test_the_smallest_effect_grows_with_fewer_degrees_of_freedom():
    shared = {"value": 0.0, "low": 0.0, "high": 0.0, "error": 0.01, "p": 1.0}
    many = CrossedDifference(freedom=1e6, **shared).detectable
    assert many == pytest.approx(0.01 * (1.95996 + 0.84162), rel=1e-4)
    assert CrossedDifference(freedom=2, **shared).detectable > 1.5 * many


@pytest.mark.parametrize("regime", REGIMES, ids=lambda one: one.name)
def test_every_row_has_a_recipe_that_selects_at_least_twice(regime):
    keys = set()
    for row in regime.rows():
        made = recipe(row.run(regime, 0, 0.3), regime.scale, Inputs())
        keys.add((repr(made), row.weights))
        for stage in made.stages:
            chosen = stage.selection
            if chosen is not None and chosen.rule != "all":
                assert chosen.every <= stage.epochs // 2, row.name
    assert len(keys) == len(regime.rows()), "two rows are the same network"
    assert {row.control for row in regime.rows()} == {True, False}


def judged(name, control, heldout, shift, images=400, seeds=3):
    random = np.random.default_rng(abs(hash(name)) % 1000)
    verdicts = {kind: (random.random((seeds, images)) < 0.5 + shift).astype(float) for kind in ("clean", "robust")}
    row = EvidenceRow(name=name, control=control)
    return Judged(row=row, seeds=tuple(range(seeds)), heldout=(heldout,) * seeds, verdicts=verdicts, passes=1e6)


def test_the_control_to_beat_is_chosen_on_held_out_images():
    rows = [judged("weak", True, 0.3, 0.3), judged("strong", True, 0.4, 0.0), judged("form", False, 0.5, 0.4)]
    assert best_control(rows).row.name == "strong"
    found = judge(rows)
    assert not found[1].against
    assert [one.gains for one in found] == [False, False, True], "a control never gains"
    told = " ".join(answer(find_regime("overfitting"), found))
    assert "best of 2 controls is strong" in told
    assert "is found for form" in told
    nothing = judge([rows[1], judged("form", False, 0.5, 0.0)])
    assert "None of the 1 forms" in " ".join(answer(find_regime("overfitting"), nothing))
    assert clean_against_robust(found) is not None
    assert answer(find_regime("fast"), [Judged(row=rows[0].row, failure="no such luck")]) == []


@pytest.fixture
def small(monkeypatch):
    """A regime that takes seconds, whose rows train in this process."""

    def run_row(row, made, out):
        words = ["--reuse", str(out / "runs" / row.reuse)] if row.reuse else []
        return (
            None
            if cli.main(["--quiet", "train", str(made), "--out", str(out / "runs" / row.name), *words]) == 0
            else "no"
        )

    monkeypatch.setattr(store, "run_row", run_row)
    scale = replace(TINY, epochs=4, seeds=2, ratios=(0.1, 0.3))
    rows = ("X", "X, averaged, stopped", "X + clat")
    return replace(find_regime("overfitting"), scale=scale, only=rows)


def test_a_regime_in_miniature(small, tmp_path):
    claim(tmp_path / "e", small.scale, [])
    where = Store(tmp_path / "e", small.scale, {"cifar10": "digits"})
    request = table.EvidenceRequest(regime=small, store=where, seeds=(0, 1), console=Console(quiet=True))
    specs = table.regime_specs(small, (0, 1))
    found = table.run_regime(request, tmp_path / "e")
    assert [row[0] for row in found["rows"]] == ["X", "X, averaged, stopped", "X + clat"]
    assert found["failed"] == 0
    runs = [one for one in (tmp_path / "e" / "store" / "runs").iterdir() if (one / "summary.json").exists()]
    assert len(runs) <= len({where.run_of(spec).key for spec in specs}), "the plan counts all that is trained"
    chosen = found["ratios"]["clat"]
    assert set(chosen["robust"]) == {"0.1", "0.3"}
    files = {file.name for file in (tmp_path / "e" / "evidence-overfitting").iterdir()}
    assert files == {"table.json", "table.md", "page.html", "clean-and-robust.svg"}
    held = json.loads((tmp_path / "e" / "evidence-overfitting" / "table.json").read_text())
    assert held["outcome"].startswith("The best of 2 controls is")
    assert all(entry["robust"]["images"] == 20 and len(entry["seeds"]) == 2 for entry in held["entries"])

    finals = replace(request, finals=table.Finals(protocol="pgd-20", samples=10))
    last = table.run_regime(finals, tmp_path / "e")
    assert (len(last["rows"]), last["protocol"]) == (2, "pgd-20")
    assert (tmp_path / "e" / "evidence-overfitting-pgd-20" / "page.html").exists()


def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch):
    for words, told in (
        (["overfiting", "--out", str(tmp_path / "a")], "did you mean 'overfitting'"),
        (["fast"], "needs --out"),
        (["fast", "--seeds", "0", "--out", str(tmp_path / "a")], "--seeds is 0"),
        (["fast", "--num-samples", "5", "--out", str(tmp_path / "a")], "belongs to --finals"),
        (["fast", "--finals", "autoatack", "--out", str(tmp_path / "a")], "autoattack"),
    ):
        assert cli.main(["evidence", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()
    assert cli.main(["evidence"]) == 0
    listed = capsys.readouterr().out
    assert all(regime.name in listed for regime in REGIMES)
    with pytest.raises(ClatError, match="unknown regime"):
        find_regime("nonsense")
