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
from clat.studies.evidence import run
from clat.studies.evidence.answer import answer
from clat.studies.evidence.comparison import CrossedDifference, compare, holm, smallest_shift, standard_error
from clat.studies.evidence.judged import Judged, best_control, best_form, judge
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import REGIMES, EvidenceRow, find_regime
from clat.studies.evidence.request import EvidenceRequest, Finals
from clat.studies.paper import store
from clat.studies.paper.accuracy import evaluated
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
    detectable = smallest_shift(2) * error
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


@pytest.mark.parametrize("freedom", [2, 5, 40])
def test_the_smallest_effect_is_found_in_four_of_five_samples(freedom):
    random = np.random.default_rng(freedom)
    samples = random.normal(size=(20_000, freedom + 1))
    shift = smallest_shift(freedom) / np.sqrt(freedom + 1)
    p = stats.ttest_1samp(samples + shift, 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.01)


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


def judged(name, control, heldout, shift, images=4000, seeds=3, step=0.7, complete=True):
    """A row whose networks are right on half of the images and `shift`, by seed on nearly the same ones."""
    random = np.random.default_rng(len(name))
    drawn = np.linspace(0, 1, images)[None, :] + 0.1 * random.random((seeds, images)) - 0.05
    verdicts = {kind: (drawn < 0.5 + shift).astype(float) for kind in ("clean", "robust")}
    row = EvidenceRow(name=name, control=control)
    return Judged(
        row=row,
        step=None if control else step,
        complete=complete,
        failure=None if complete else "seed 1: no",
        seeds=tuple(range(seeds)),
        heldout=(heldout,) * seeds,
        verdicts=verdicts,
        passes=1e6,
    )


def test_the_control_to_beat_and_the_finalist_are_chosen_on_held_out_images():
    rows = [judged("weak", True, 0.3, 0.3), judged("strong", True, 0.4, 0.0), judged("form", False, 0.5, 0.4)]
    rows.append(judged("other form", False, 0.45, 0.45))
    assert best_control(rows).row.name == "strong"
    found = judge(rows)
    assert best_form(found).row.name == "form"
    assert not found[1].against
    assert [one.gains for one in found] == [False, False, True, True], "a control never gains"
    told = " ".join(answer(found))
    assert "The control to beat is strong" in told
    assert "is form: +" in told
    assert "CLAT gains: +2.0 points clean and +1.0 robust" in told
    assert "so do: other form" in told
    assert clean_against_robust(found) is not None
    assert answer([Judged(row=rows[0].row, failure="no such luck")]) == []


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"shift": 0.1}, "CLAT gains"),
        ({"shift": 0.1, "step": 1.0}, "do not cost less: no gain"),
        ({"shift": 0.0}, "CLAT does not gain"),
        ({"shift": 0.0, "images": 40}, "settles nothing"),
        ({"shift": 0.1, "seeds": 1}, "CLAT gains"),
    ],
    ids=["gains", "dear", "does not", "few images", "one seed"],
)
def test_there_are_three_verdicts(form, told):
    shape = {key: form[key] for key in ("images", "seeds") if key in form}
    control = judged("control", True, 0.4, 0.0, **shape)
    assert told in " ".join(answer(judge([control, judged("form", False, 0.5, **form)])))


def test_a_row_of_which_a_seed_failed_decides_nothing():
    failed = judged("lucky control", True, 0.9, 0.4, seeds=1, complete=False)
    promising = judged("lucky form", False, 0.9, 0.4, seeds=1, complete=False)
    found = judge([failed, judged("control", True, 0.4, 0.0), promising, judged("form", False, 0.5, 0.0)])
    assert best_control(found).row.name == "control"
    assert best_form(found).row.name == "form"
    assert [bool(one.against) for one in found] == [False, False, False, True]
    told = " ".join(answer(found))
    assert "Left out, since not all of their seeds could be measured: lucky control, lucky form." in told


def test_the_correction_is_for_as_many_forms_as_were_compared():
    rows = [judged("control", True, 0.4, 0.0), *(judged(f"form {i}", False, 0.3, 0.01) for i in range(3))]
    found = judge(rows)
    assert found[0].corrected is None
    assert all(one.corrected == pytest.approx(min(3 * one.p, 1.0)) for one in found[1:])


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


def test_a_regime_in_miniature(small, tmp_path, monkeypatch):
    train = store.run_row
    claim(tmp_path / "e", small.scale, [])
    where = Store(tmp_path / "e", small.scale, {"cifar10": "digits"})
    request = EvidenceRequest(regime=small, store=where, seeds=(0, 1), console=Console(quiet=True))
    specs = run.regime_specs(small, (0, 1))
    order = []
    monkeypatch.setattr(run, "evaluated", lambda *given: order.append("measured") or evaluated(*given))
    monkeypatch.setattr(store, "run_row", lambda *given: order.append("trained") or train(*given))
    found = run.run_regime(request, tmp_path / "e")
    assert order == sorted(order, reverse=True), "test images are read when all networks are trained"
    assert [row[0] for row in found["rows"]] == ["X", "X, averaged, stopped", "X + clat"]
    assert found["failed"] == 0
    runs = [one for one in (tmp_path / "e" / "store" / "runs").iterdir() if (one / "summary.json").exists()]
    assert len(runs) <= len({where.run_of(spec).key for spec in specs}), "the plan counts all that is trained"
    chosen = found["ratios"]["clat"]
    assert set(chosen["robust"]) == {"0.1", "0.3"}
    files = {file.name for file in (tmp_path / "e" / "evidence-overfitting").iterdir()}
    assert files == {"table.json", "table.md", "page.html", "clean-and-robust.svg"}
    held = json.loads((tmp_path / "e" / "evidence-overfitting" / "table.json").read_text())
    assert held["outcome"].startswith("The control to beat is X")
    assert [entry["step"] is None for entry in held["entries"]] == [True, True, False]
    assert all(entry["robust"]["images"] == 20 and len(entry["seeds"]) == 2 for entry in held["entries"])

    finals = replace(request, finals=Finals(protocol="pgd-20", samples=10))
    last = run.run_regime(finals, tmp_path / "e")
    assert (len(last["rows"]), last["protocol"]) == (2, "pgd-20")
    assert last["outcome"].startswith("The control to beat is X")
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
