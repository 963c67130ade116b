"""Evidence: how a form of CLAT is compared, and a whole regime in miniature."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from clat import cli
from clat.core.errors import ClatError
from clat.evaluation.crossed import standard_error
from clat.runtime.jobs import schedule
from clat.studies.evidence import cost, run
from clat.studies.evidence.answer import answer
from clat.studies.evidence.comparison import CrossedDifference, compare, holm, smallest_shift
from clat.studies.evidence.confirmation import Confirmation
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import REGIMES, EvidenceRow, every_row, find_regime
from clat.studies.evidence.request import EvidenceRequest, Finals
from clat.studies.evidence.screening import GOAL, Screened, control_to_beat, finalist, headroom
from clat.studies.evidence.summary import answer_table, verdict
from clat.studies.evidence.table import evidence_table
from clat.studies.paper import scales, store
from clat.studies.paper.accuracy import evaluated
from clat.studies.paper.choose_lambda import ChosenRatio
from clat.studies.paper.folder import claim
from clat.studies.paper.runs import Inputs, recipe
from clat.studies.paper.store import Store
from helpers.paper import TINY
from helpers.places import InThisProcess


def test_holm_corrects_as_published_and_in_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # the textbook's example
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_a_single_seed_the_test_is_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 1, 50))
    assert compare(a - b).p == pytest.approx(float(stats.ttest_rel(a[0], b[0]).pvalue))


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
    """The p of `compare`, in less time."""
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


@pytest.mark.parametrize("regime", REGIMES, ids=lambda one: one.name)
def test_every_form_meets_its_controls_and_none_is_run_that_cannot_cost_less(regime):
    names = {row.name: row for row in regime.rows()}
    assert set(regime.only) <= set(names), "a row that there is not"
    forms = {row.form for row in names.values() if not row.control}
    controls = {"X", "X, averaged", "X on critical layers", *(f"X + {form} on random layers" for form in forms)}
    controls |= {f"X, averaged, in {form}'s time" for form in forms - {"clat-plus"}}  # which takes X's but for 5 %
    if regime.scale.stretch != 1:
        controls |= {"X, annealed", "X, averaged, annealed"}
    assert controls <= set(names)
    for name in [row.name for row in every_row(regime) if row.name.endswith(", stopped")]:
        assert (name in names) == (name.removesuffix(", stopped") in names), "it takes no network of its own"
    assert regime.base == "pgd-at" or forms == {"clat-fast"}, "ten steps of attack cost more than one"
    assert set(regime.choices(0)) == forms


def screened(name, control, clean, robust, *, step=0.7, complete=True):
    """A row with accuracies on held-out images."""
    return Screened(
        row=EvidenceRow(name=name, control=control),
        heldout={"clean": (clean, clean), "robust": (robust, robust)},
        passes=1e6,
        step=None if control else step,
        complete=complete,
        failure=None if complete else "seed 1: no",
    )


def confirmed(shift, *, images=4000, seeds=3, control="control", form="form"):
    """Networks that are right on half of the images and, those of the form, on `shift` more, alike by seed."""
    drawn = np.linspace(0, 1, images)[None, :] + 0.01 * np.random.default_rng(0).random((seeds, images))
    rows = [{kind: (drawn < 0.5 + by).astype(float) for kind in GOAL} for by in (0.0, shift)]
    return Confirmation(
        control=screened(control, True, 0.5, 0.3),
        form=screened(form, False, 0.5, 0.3),
        seeds=tuple(range(2, 2 + seeds)),
        protocol="cr",
        by_control=rows[0],
        by_form=rows[1],
    )


def test_headroom_is_what_the_weaker_accuracy_leaves_above_the_goal():
    form, control = screened("form", False, 0.55, 0.30), screened("control", True, 0.50, 0.28)
    assert headroom(form, control) == pytest.approx(min(0.05 - 0.02, 0.02 - 0.01))


def test_the_finalist_is_the_form_whose_hardest_control_is_passed_by_the_most():
    """A control that gives up clean accuracy for robust is as hard to beat as one that does the reverse."""
    rows = [
        screened("robust control", True, 0.40, 0.30),
        screened("clean control", True, 0.50, 0.24),
        screened("clean form", False, 0.52, 0.26),
        screened("robust form", False, 0.38, 0.33),
    ]
    form = finalist(rows)
    assert form.row.name == "clean form"
    assert control_to_beat(rows, form).row.name == "robust control"


def test_what_costs_more_or_is_not_whole_is_not_chosen():
    control = screened("control", True, 0.5, 0.3)
    rows = [
        control,
        screened("lucky control", True, 0.9, 0.9, complete=False),
        screened("dear form", False, 0.6, 0.4, step=1.0),
        screened("lucky form", False, 0.6, 0.4, complete=False),
        screened("form", False, 0.5, 0.3),
    ]
    assert finalist(rows).row.name == "form"
    assert control_to_beat(rows, rows[-1]) is control
    assert finalist(rows[:-1]) is None
    told = " ".join(answer(rows[:-1], []))
    assert told.startswith("No form of CLAT has steps that cost less than X's.")
    assert "Left out, since not all of their seeds could be trained: lucky control, lucky form." in told
    assert answer([screened("form", False, 0.5, 0.3, complete=False)], [])[0].startswith("Left out")
    cheap, untimed = screened("form", False, 0.5, 0.3), replace(screened("other", False, 0.5, 0.3), step=None)
    assert answer([replace(control, complete=False), cheap], [])[0].startswith("Left out"), "it may cost less"
    assert answer([control, screened("dear form", False, 0.6, 0.4, step=1.01), untimed], []) == [
        "Left out, since their step could not be timed: other."
    ]
    assert clean_against_robust(rows) is not None
    assert clean_against_robust(rows[:-1]) is None


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (confirmed(0.1), "CLAT gains: the differences found reach +2.0 points clean and +1.0 robust"),
        (confirmed(0.0), "CLAT does not gain +2.0 points clean and +1.0 robust: more than +0.1 clean and"),
        (
            confirmed(0.015),
            "does not gain +2.0 points clean and +1.0 robust: more than +1.9 clean is",
        ),
        (confirmed(0.025, images=40), "settles nothing"),
        (confirmed(0.1, seeds=1), "settles nothing: one seed"),
        (confirmed(0.0, seeds=1), "settles nothing: one seed"),
        (replace(confirmed(0.1), missing=(5, 7)), "rests on 3 of 5 fresh seeds: seeds 5, 7 failed."),
    ],
    ids=["gains", "does not", "not in clean", "few images", "one seed", "one seed less", "failed seeds"],
)
def test_there_are_three_verdicts(found, told):
    rows = [found.control, found.form]
    assert told in " ".join(answer(rows, [found]))


@pytest.mark.parametrize(("beside", "told"), [(0.0, False), (0.1, True)])
def test_a_protocol_that_does_not_decide_says_where_it_disagrees(beside, told, tmp_path):
    one, other = confirmed(0.0), replace(confirmed(beside, images=1000), protocol="autoattack")
    sentences = answer([one.control, one.form], [one, other])
    said = [text for text in sentences if text.startswith("By autoattack alone, which does not decide, this would")]
    assert [text.partition("said: ")[2][:10] for text in said] == ["CLAT gains"] * told
    table = regime_table("fast", 0.0)
    for entries, expected in (
        ([], "not measured under AutoAttack"),
        ([other.to_dict()], "under autoattack, 1,000 images: +"),
    ):
        both = table | {"confirmed": [*table["confirmed"], *entries]}
        found = answer_table([both])
        (note,) = [text for name, text in found["notes"] if name == "fast"]
        assert note.startswith(expected)
        assert ("by that alone CLAT would gain" in note) is bool(told and entries)
        assert [entry["protocol"] for entry in found["entries"][0]["beside"]] == ["autoattack"] * len(entries)


def test_one_seed_neither_gains_nor_does_not():
    for shift in (0.1, 0.0):
        told = confirmed(shift, seeds=1).to_dict()
        assert (told["exceeds"], told["falls_short"], told["p"]) == (False, False, 1.0)
        assert verdict(told | {"exceeds": True, "falls_short": True}, 0.01) == "not settled", "a table of before"


def test_seeds_that_failed_are_named_with_the_number_that_is_left():
    one = replace(confirmed(0.1), missing=(5,))
    told = " ".join(answer([one.control, one.form], [one]))
    assert "Under cr, 3 of 4 fresh seeds and 4,000 test images" in told
    assert "The verdict rests on 3 of 4 fresh seeds: seed 5 failed." in told
    assert one.to_dict()["missing"] == [5]
    assert "not confirmed" in " ".join(answer([one.control, one.form], []))


def test_a_gain_as_large_as_the_goal_is_seldom_denied():
    """True differences at both goals are denied, in either accuracy, no more often than the verdict says."""
    random = np.random.default_rng(5)

    def differences(goal):
        return goal + 0.02 * random.normal(size=(6, 1)) + 0.01 * random.normal(size=(6, 20))

    denied, one, nothing = 0, confirmed(0.0), {kind: np.zeros((6, 20)) for kind in GOAL}
    for _ in range(2000):
        found = {kind: differences(goal) for kind, goal in GOAL.items()}
        denied += replace(one, by_form=found, by_control=nothing).falls_short
    assert denied / 2000 <= 0.033, "one case of forty, and chance"


@pytest.mark.parametrize("seeds", [1, 2, 6])
def test_the_bound_that_denies_a_gain_is_students_and_beyond_the_interval(seeds):
    values = 0.01 + 0.1 * np.random.default_rng(seeds).normal(size=(seeds, 50))
    found, (error, freedom) = compare(values), standard_error(values)
    assert found.bound == pytest.approx(found.value + stats.t.isf(0.0125, freedom) * error)
    assert found.to_dict()["bound"] > found.high


def test_what_is_confirmed_stands_beside_its_rows():
    one = confirmed(0.1)
    told = one.to_dict()
    assert told["form"]["row"] == "form"
    assert told["differences"]["clean"]["high"] >= told["differences"]["clean"]["value"]
    assert (told["exceeds"], told["falls_short"]) == (True, False)


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
    scale = replace(TINY, epochs=4, ratios=(0.1, 0.3))
    rows = ("X", "X, averaged, stopped", "X + clat")
    return replace(find_regime("overfitting"), scale=scale, only=rows, screened=1, fresh=2)


def test_a_regime_in_miniature(small, tmp_path, monkeypatch):
    train = store.run_row
    claim(tmp_path / "e", small.scale, [])
    where = Store(tmp_path / "e", small.scale, {"cifar10": "digits"})
    request = EvidenceRequest(regime=small, store=where, console=Console(quiet=True))
    specs = run.regime_specs(small)
    order = []
    monkeypatch.setattr(run, "evaluated", lambda *given: order.append("measured") or evaluated(*given))
    monkeypatch.setattr(store, "run_row", lambda row, *given: order.append(row.name) or train(row, *given))
    for module in ("run", "answer", "table", "plot"):  # whatever its step cost in so small a run
        monkeypatch.setattr(f"clat.studies.evidence.{module}.finalist", lambda found: found[-1])
    found = run.run_regime(request, tmp_path / "e")
    trained = order[: order.index("measured")]
    assert len([name for name in trained if "-s0-" in name]) == 4, "X, averaged, and a network a ratio"
    assert len([name for name in trained if "-s1-" in name or "-s2-" in name]) == 4, "two fresh seeds of the two"
    assert set(order[len(trained) :]) == {"measured"}, "test images are read when all networks are trained"
    assert [row[0] for row in found["rows"]] == ["X", "X, averaged, stopped", "X + clat"]
    assert found["failed"] == 0
    runs = [one for one in (tmp_path / "e" / "store" / "runs").iterdir() if (one / "summary.json").exists()]
    assert len(runs) <= len({where.run_of(spec).key for spec in specs}), "the plan counts all that is trained"
    assert set(found["ratios"]["clat"]["robust"]) == {"0.1", "0.3"}
    files = {file.name for file in (tmp_path / "e" / "evidence-overfitting").iterdir()}
    assert files == {"table.json", "table.md", "page.html", "clean-and-robust.svg"}
    held = json.loads((tmp_path / "e" / "evidence-overfitting" / "table.json").read_text())
    assert held["outcome"].startswith("On held-out images the finalist is X + clat")
    assert [entry["step"] is None for entry in held["entries"]] == [True, True, False]
    assert [one["protocol"] for one in held["confirmed"]] == ["cr", "clat-pgd-10"]
    assert all(one["seeds"] == [1, 2] for one in held["confirmed"])
    assert held["confirmed"][0]["form"]["robust"]["images"] == 20
    assert held["fresh_at_first"] == 2
    assert held["choice"] == held["choice_at_first"]
    assert held["choice"]["finalist"] == "X + clat"
    assert held["choice"]["ratio"] == held["ratios"]["clat"]["ratio"] in (0.1, 0.3)
    assert set(held["ratios"]["clat"]["clean"]) == set(held["ratios"]["clat"]["score"]) == {"0.1", "0.3"}
    assert "score" in held["ratios"]["clat"]["how"], "what was compared stands beside what was chosen"
    (seeds, beside) = [text for name, text in held["notes"] if name == "seed by seed"]
    assert seeds.startswith("cr, less the control: seed 1 ")
    assert beside.startswith("clat-pgd-10, less the control: seed 1 ")

    finals = replace(request, finals=Finals(protocol="pgd-20", samples=10))
    last = run.run_regime(finals, tmp_path / "e")
    assert [one["protocol"] for one in last["confirmed"]] == ["cr", "clat-pgd-10", "pgd-20"]
    assert len(runs) == len(
        [one for one in (tmp_path / "e" / "store" / "runs").iterdir() if (one / "summary.json").exists()]
    ), "nothing is trained again"
    assert "after a verdict" not in last["outcome"]
    (first,) = (tmp_path / "e" / "store" / "confirmations").iterdir()
    told = json.loads(first.read_text())
    other = round(0.4 - told["choice"]["ratio"], 1)
    first.write_text(json.dumps({**told, "choice": {**told["choice"], "ratio": other}}))
    changed = run.run_regime(request, tmp_path / "e")["outcome"]
    assert f"seen (ratio: {other:g}, then {held['choice']['ratio']:g}), for which p" in changed
    first.write_text(json.dumps({key: value for key, value in told.items() if key != "choice"}))
    assert "after a verdict" not in run.run_regime(request, tmp_path / "e")["outcome"], "a store of an earlier clat"
    fewer = replace(request, regime=replace(small, fresh=1))
    last = run.run_regime(fewer, tmp_path / "e")
    assert (last["fresh_at_first"], last["fresh"]) == (2, [1])
    assert "settles nothing: one seed" in last["outcome"]
    assert "changed from 2 to 1 after a verdict had been seen" in last["outcome"]


def test_a_steps_cost_is_measured_in_turns_and_once(small, tmp_path, monkeypatch):
    """What neighbours did to the speed of a run, or of one whose first stage it took over, moves nothing."""
    claim(tmp_path, small.scale, [])
    where = Store(tmp_path, small.scale, {"cifar10": "digits"})
    row = next(row for row in small.rows() if row.form)
    form = where.run_of(row.run(small, 0, 0.1))
    assert where.train(form, Console(quiet=True)) is None
    summary = where.folder / "runs" / form.key / "summary.json"
    told = json.loads(summary.read_text())
    told["stages"][0]["images_per_second"] *= 1000
    summary.write_text(json.dumps(told))
    timed = []

    def step_times(store, run, stages, start):
        timed.append((run.key, list(stages)))
        assert [stage.objective.name for stage in stages.values()] == ["pgd-at", "clat"]
        repeated = real(store, run, stages, start)
        seconds = {"x": [4.0, 2.0, 8.0], "clat": [1.0, 1.0, 2.0]}
        return {name: replace(of, cpu=seconds[name], wall=seconds[name]) for name, of in repeated.items()}

    real = cost.step_times
    monkeypatch.setattr(cost, "step_times", step_times)
    monkeypatch.setattr(Store, "test_images", lambda *_: pytest.fail("test images are read for two rows alone"))
    request = EvidenceRequest(regime=replace(small, only=("X + clat",)), store=where, console=Console(quiet=True))
    for _ in range(2):
        assert [one.step for one in run.screen(request, {"clat": ChosenRatio(0.1, "", {})})] == [0.25]
    assert timed == [(form.key, ["x", "clat"])]
    (kept,) = (where.folder / "steps").iterdir()
    kept.unlink()
    (where.folder / "runs" / form.key / "weights" / "stage-1.safetensors").unlink()
    (untimed,) = run.screen(request, {"clat": ChosenRatio(0.1, "", {})})
    assert untimed.step is None
    assert untimed.failure.startswith("its step could not be timed: "), "the others go on"
    assert untimed.heldout


def test_a_regime_beside_itself_trains_and_measures_nothing_here(small, tmp_path, monkeypatch):
    """All in other processes: the ratios first, then the rows, then the two that are chosen."""
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    monkeypatch.setitem(scales.SCALES, "tiny", small.scale)
    for module in ("run", "answer", "table", "plot"):
        monkeypatch.setattr(f"clat.studies.evidence.{module}.finalist", lambda found: found[-1])

    def never(*_):
        raise AssertionError("all is done ahead")

    monkeypatch.setattr(store, "run_row", never)
    monkeypatch.setattr(Store, "test_images", never)
    where, place = Store(tmp_path, small.scale, {"cifar10": "digits"}), InThisProcess()
    found = run.run_regime(EvidenceRequest(regime=small, store=where, console=Console(quiet=True)), tmp_path, place)
    assert found["failed"] == 0
    assert [one["seeds"] for one in found["confirmed"]] == [[1, 2], [1, 2]]
    words = [one[0] for one in place.started]
    assert words.count("train") == 8
    assert words.count("study") == 8, "two protocols, two rows, two seeds"


def test_a_seed_of_which_one_network_failed_is_told_of(small, tmp_path, monkeypatch):
    where, measured = Store(tmp_path, small.scale, {"cifar10": "digits"}), SimpleNamespace(images="same")
    monkeypatch.setattr(where, "summary", lambda run: {"warnings": ["catastrophic overfitting"]})
    monkeypatch.setattr(where, "train", lambda run, _: "no" if run.spec.follower and run.spec.seed == 2 else None)
    monkeypatch.setattr(run, "evaluated", lambda _, runs, how: ({one.spec.seed: measured for one in runs}, []))
    monkeypatch.setattr(run, "verdicts_of", lambda records, kind: np.eye(len(records), 5))
    request = EvidenceRequest(regime=small, store=where, console=Console(quiet=True))
    rows = {row.name: row for row in small.rows()}
    found = [replace(screened("", name == "X", 0.5, 0.3), row=rows[name]) for name in ("X", "X + clat")]
    confirmed, failures = run.confirm(request, found, {"clat": ChosenRatio(0.1, "", {})})
    assert [(one.seeds, one.missing) for one in confirmed] == [((1,), (2,))] * 2
    assert failures == ["no"]
    assert confirmed[0].warnings["X"] == tuple(f"seed {seed}: catastrophic overfitting" for seed in (1, 2))
    table = evidence_table(request, {}, found, confirmed, failures)
    assert ["X + clat", "seed 1: catastrophic overfitting"] in table["notes"]
    others = {1: SimpleNamespace(images="others")}
    monkeypatch.setattr(run, "evaluated", lambda _, runs, how: ({1: measured} if len(runs) > 1 else others, []))
    with pytest.raises(ClatError, match="seed 1 was measured by cr on images of two kinds"):
        run.confirm(request, found, {"clat": ChosenRatio(0.1, "", {})})


def test_a_ratio_is_chosen_by_both_accuracies(small, tmp_path, monkeypatch):
    """0.1 is the more robust one, 0.3 the nearer one to the goal over X."""
    where = Store(tmp_path, small.scale, {"cifar10": "digits"})
    told = {
        "": {"heldout_clean": 0.50, "heldout_robust": 0.30},
        "0.1": {"heldout_clean": 0.40, "heldout_robust": 0.33},
        "0.3": {"heldout_clean": 0.49, "heldout_robust": 0.31},
    }
    monkeypatch.setattr(where, "train", lambda *_: None)
    monkeypatch.setattr(where, "is_finished", lambda *_: True)
    monkeypatch.setattr(
        where, "summary", lambda run: {"last": told[f"{run.spec.ratio:g}" if run.spec.follower else ""]}
    )
    request = EvidenceRequest(regime=small, store=where, console=Console(quiet=True))
    assert run.chosen_ratios(request)["clat"].ratio == 0.3


def test_fast_at_comes_to_the_end_of_its_cycle_before_clat():
    regime = find_regime("fast")
    rows = {row.name: recipe(row.run(regime, 0, 0.3), regime.scale, Inputs()) for row in regime.rows()}
    whole, cut = rows["X"], rows["X + clat-fast"]
    assert max(whole.learning_rate(0, epoch) for epoch in range(15)) < whole.learning_rate(1, 15.0) == 0.2
    assert cut.learning_rate(0, 7.5) == 0.2
    assert cut.learning_rate(0, 14.99) < 0.001
    assert cut.learning_rate(1, 16.0) == pytest.approx(0.05)
    assert cut.learning_rate(1, 29.99) < 0.001
    assert rows["X on critical layers"].stages[1].schedule == cut.stages[1].schedule


def regime_table(name, shift, **more):
    one = confirmed(shift, control=f"control of {name}", **more)
    return {"id": f"evidence, {name}", "remark": f"About {name}.", "confirmed": [one.to_dict()]}


def test_the_answer_is_made_from_the_regimes_files(tmp_path, capsys):
    for name, shift in (("overfitting", 0.1), ("fast", 0.0), ("wide", 0.025)):
        folder = tmp_path / name / f"evidence-{name}"
        folder.mkdir(parents=True)
        table = regime_table(name, shift, **({"images": 40} if name == "wide" else {}))
        (folder / "table.json").write_text(json.dumps(table))
    folders = [str(tmp_path / name) for name in ("overfitting", "fast", "wide")]
    assert cli.main(["evidence", "--answer", *folders, "--out", str(tmp_path / "answer")]) == 0
    told = json.loads((tmp_path / "answer" / "table.json").read_text())
    expected = "Of 3 regimes, CLAT gains in 1 (overfitting); does not gain in 1 (fast); not settled in 1 (wide)."
    assert told["outcome"].startswith(expected)
    largest = told["entries"][0]["differences"]["clean"]["value"]
    assert f"to +{100 * largest:.1f} clean" in told["outcome"]
    assert "control of fast; control of wide." in told["outcome"]
    assert "it speaks against no difference, be it a gain or a loss." in told["outcome"]
    planned = "planned, and not in this answer; p is not corrected for them"
    assert ["annealed, cifar100, imagenette", planned] in told["notes"]
    assert [row[-1] for row in told["rows"]] == ["gains", "does not gain", "not settled"]
    assert [one["p_corrected"] for one in told["entries"]] == holm([one["p"] for one in told["entries"]])
    assert (tmp_path / "answer" / "page.html").exists()
    assert (tmp_path / "answer" / "differences.svg").exists()
    assert cli.main(["evidence", "--answer", str(tmp_path), "--out", str(tmp_path / "answer")]) == 2
    assert "has no regime that `clat evidence` has confirmed" in capsys.readouterr().err


def test_what_holm_takes_back_is_no_gain():
    """p = 0.03 in one of six regimes is 0.18 after the correction."""
    one = confirmed(0.1, control="X").to_dict() | {"p": 0.03, "exceeds": True, "falls_short": False}
    rest = one | {"p": 0.5, "exceeds": False}
    tables = [
        {"id": f"evidence, r{number}", "remark": "", "confirmed": [entry]}
        for number, entry in enumerate([one] + [rest] * 5)
    ]
    told = answer_table(tables)
    assert "gains in" not in told["outcome"]
    assert told["entries"][0]["verdict"] == "not settled"
    alone = answer_table(tables[:1])
    assert alone["entries"][0]["verdict"] == "gains"
    assert alone["outcome"].startswith("Of 1 regime, CLAT gains in 1 (r0).")
    (shown,) = {f"{100 * one['differences']['clean']['value']:+.1f}"}
    assert f"comes to {shown} clean and to " in alone["outcome"], "one difference is no range"
    with pytest.raises(ClatError, match="has not been measured under cr, which decides"):
        answer_table([tables[0] | {"confirmed": [one | {"protocol": "clat-pgd-10"}]}])


def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch):
    for words, told in (
        (["overfiting", "--out", str(tmp_path / "a")], "did you mean 'overfitting'"),
        (["fast"], "needs --out"),
        (["fast", "--seeds", "0", "--out", str(tmp_path / "a")], "--seeds is 0"),
        (["fast", "--answer", "a", "--out", str(tmp_path / "a")], "leave the regime out"),
        (["--answer", "a"], "needs --out"),
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


def put(folder, name, table):
    """Write a regime's table, or what stands in its place."""
    place = folder / f"evidence-{name}"
    place.mkdir(parents=True)
    (place / "table.json").write_text(table if isinstance(table, str) else json.dumps(table))
    return str(folder)


def answered(*folders, out):
    return cli.main(["evidence", "--answer", *folders, "--out", str(out)])


def test_a_regime_that_was_not_confirmed_is_named_and_counted(tmp_path):
    """Its p is one of those that Holm corrects for: else the others would be tested as if it had not been run."""
    nothing = {"id": "evidence, wide", "remark": "", "confirmed": [], "outcome": "No form costs less."}
    told = [put(tmp_path / "a", "fast", regime_table("fast", 0.1)), put(tmp_path / "b", "wide", nothing)]
    assert answered(*told, out=tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert found["outcome"].startswith("Of 2 regimes, CLAT gains in 1 (fast); not tested in 1 (wide).")
    assert found["untested"] == ["evidence, wide"]
    assert [row[-1] for row in found["rows"]] == ["gains", "not tested"]
    assert ["wide", "not tested: No form costs less."] in found["notes"]
    assert found["entries"][0]["p_corrected"] == pytest.approx(2 * found["entries"][0]["p"])
    assert "wide" in (tmp_path / "out" / "page.html").read_text()
    assert answered(told[1], out=tmp_path / "none") == 2, "nothing was tested at all"


def test_the_answer_says_on_how_many_seeds_a_verdict_rests(tmp_path):
    table = regime_table("fast", 0.1)
    table["confirmed"][0]["missing"] = [9]
    table |= {"fresh": [2, 3, 4, 9], "fresh_at_first": 3}
    assert answered(put(tmp_path / "a", "fast", table), out=tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert found["rows"][0][3] == "3 of 4"
    notes = " ".join(text for _, text in found["notes"])
    assert "rests on 3 of 4 fresh seeds: seed 9 failed." in notes
    assert "changed from 3 to 4 after a verdict had been seen" in notes


@pytest.mark.parametrize(
    "damaged",
    ['{"id": "x", "conf', "[]", "{}", '{"id": "evidence, x", "remark": "", "confirmed": [{"protocol": "cr"}]}'],
    ids=["cut", "a list", "empty", "without numbers"],
)
def test_a_damaged_table_is_told_of_in_a_line(damaged, tmp_path, capsys):
    folder = put(tmp_path / "a", "x", damaged)
    assert answered(folder, out=tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "table.json is damaged" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_regime_is_counted_once_and_its_table_kept(tmp_path, capsys):
    folder = put(tmp_path / "a", "fast", regime_table("fast", 0.1))
    assert answered(folder, folder, out=tmp_path / "out") == 2
    assert "fast: named twice" in capsys.readouterr().err
    regimes_own = tmp_path / "a" / "evidence-fast"
    before = (regimes_own / "table.json").read_text()
    assert answered(folder, out=regimes_own) == 2
    assert "is no answer of" in capsys.readouterr().err
    assert (regimes_own / "table.json").read_text() == before
    assert [answered(folder, out=tmp_path / "out") for _ in range(2)] == [0, 0], "an answer is written anew"
