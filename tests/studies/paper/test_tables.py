"""Whole tables in miniature: networks are trained once, measured once, and stand beside the printed numbers."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import clat
from clat import cli
from clat.core.errors import ClatError
from clat.evaluation.crossed import crossed_interval
from clat.evaluation.effort import mean_passes
from clat.evaluation.protocols import find_protocol
from clat.runtime import settings
from clat.studies.measurement import Measurement
from clat.studies.paper import attack_plan, plan, scales, store
from clat.studies.paper.attack_plan import attack_seconds, needed_attacks
from clat.studies.paper.catalogue import find_table
from clat.studies.paper.cells import COLUMNS, Cell, effect_of
from clat.studies.paper.choose_lambda import choose_ratio
from clat.studies.paper.curves import effects
from clat.studies.paper.figures import Curve
from clat.studies.paper.folder import check_data, claim, in_one_spelling
from clat.studies.paper.layer_tables import in_order, ranking_of
from clat.studies.paper.lines import measure, table_lines
from clat.studies.paper.listing import run_count
from clat.studies.paper.measured_passes import ranking_passes, transfer_passes
from clat.studies.paper.page import compact, markdown, render
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.scales import SMOKE
from clat.studies.paper.store import Store
from clat.studies.paper.table import Asked, request_for, run_table
from clat.studies.row_words import row_words
from helpers.paper import TINY

DIGITS = Asked(networks=("resnet18",), datasets=("cifar10",), folders={"cifar10": "digits"})
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Train in this process: what a process of its own is for is tested with the studies."""
    trained = []

    def run_row(row, recipe, out):
        trained.append(row)
        code = cli.main(["--quiet", *row_words(row, recipe, out)])
        return None if code == 0 else "no such luck"

    monkeypatch.setattr(store, "run_row", run_row)
    monkeypatch.setitem(scales.SCALES, "tiny", TINY)
    return trained


def run(name, out, asked=DIGITS, scale=TINY, console=QUIET):
    out.mkdir(exist_ok=True)
    return run_table(find_table(name), asked, Store(out, scale, asked.folders), out, console)


def test_tables_share_their_networks_and_results(tmp_path, one_process):
    asked = replace(DIGITS, rows=("pgd-at", "pgd-at+clat, critical"))
    found = run("T20", tmp_path, replace(asked, seeds=1))
    assert [row.reuse is not None for row in one_process] == [False, True], "X's part is trained once"
    assert found["failed"] == 0
    assert found["rows"][0][:4] == ["cifar10", "resnet18", "pgd-at", "clean"]
    clat = [entry for entry in found["entries"] if entry["row"] == "pgd-at+clat, critical"]
    assert {entry["against"] for entry in clat} == {"pgd-at"}
    assert [entry["paper_effect_points"] for entry in clat][:2] == [2.43, 1.74]
    assert all(entry["ours"]["images"] == (4 if "clat-v2" in entry["attack"] else 20) for entry in clat)
    assert all(entry["settled"] in ("same sign", "opposite", "not settled") for entry in clat)
    ratio = found["ratios"]["resnet18, cifar10"]
    assert ratio["how"] == "0.1, not chosen at this scale"

    files = sorted((tmp_path / "store" / "evaluations").glob("*/*.json"))
    stamps = [file.stat().st_mtime_ns for file in files]
    again = run("T7", tmp_path, replace(asked, rows=("pgd-at", "pgd-at+clat, critical")))
    assert len(one_process) == 2, "nothing is trained again"
    assert [file.stat().st_mtime_ns for file in files] == stamps, "nor measured"
    assert len(list((tmp_path / "store" / "evaluations").glob("*/*.json"))) == len(files)
    assert again["id"] == "T7"

    folder = tmp_path / "T20"
    assert {file.name for file in folder.iterdir()} == {"table.json", "table.md", "page.html", "effects.svg"}
    assert json.loads((folder / "table.json").read_text())["id"] == "T20"
    notes = dict(found["notes"])
    assert "pgd-at" not in notes, "what is known of a printed number belongs to its own cell"
    assert notes["lambda, resnet18, cifar10"] == "ratio 0.1, not chosen at this scale"
    page = (folder / "page.html").read_text()
    for text in ("83.89", "Most against least critical layers", "not chosen at this scale", "<svg", "lowest"):
        assert text in page
    assert "| 83.89 |" in (folder / "table.md").read_text()


def test_networks_of_a_machine_with_another_automatic_precision_are_not_trained_again(tmp_path, monkeypatch):
    asked = replace(DIGITS, rows=("pgd-at", "pgd-at+clat, critical"), seeds=1)
    found = run("T7", tmp_path, asked)
    assert not any(name == "precision" for name, _ in found["notes"])
    here = settings.computes_bfloat16("cpu")
    monkeypatch.setattr(settings, "computes_bfloat16", lambda device: not here)
    trained = store.run_row
    monkeypatch.setattr(store, "run_row", None)
    moved = run("T7", tmp_path, asked)
    assert moved["rows"] == found["rows"]
    then, now = ("bf16-mixed", "32") if here else ("32", "bf16-mixed")
    assert ["precision", f"all networks trained in {then}, where this machine takes {now}"] in moved["notes"]
    if not here:
        (begun,) = (tmp_path / "store" / "runs").glob("cifar10-resnet18-pgd-at+clat*")
        (begun / "run.json").write_text((begun / "run.json").read_text().replace('"finished"', '"running"'))
        monkeypatch.setattr(store, "run_row", trained)
        gone_on = run("T7", tmp_path, asked)
        assert json.loads((begun / "run.json").read_text())["environment"]["precision"] == "32"
        assert [row[:6] for row in gone_on["rows"]] == [row[:6] for row in found["rows"]]
    (gone,) = (tmp_path / "store" / "runs").glob("cifar10-resnet18-pgd-at-s0-*")
    gone.rename(tmp_path / "gone")
    monkeypatch.setattr(store, "run_row", lambda *words: "no such luck")
    (told,) = [text for name, text in run("T7", tmp_path, asked)["notes"] if name == "precision"]
    if here:
        assert told == f"trained in {now}: cifar10-resnet18-pgd-at-s0; all others in {then}"
    else:
        assert told.startswith("all networks trained in 32,"), "what was begun in float32 goes on in it anywhere"


def test_a_run_that_fails_leaves_its_cells_named_and_the_others_go_on(tmp_path, monkeypatch):
    held = store.run_row
    monkeypatch.setattr(
        store, "run_row", lambda row, *rest: "diverged at epoch 3" if "clat" in row.name else held(row, *rest)
    )
    found = run("T7", tmp_path, replace(DIGITS, rows=("pgd-at", "pgd-at+clat, critical")))
    texts = {(row[2], row[3].partition(",")[0]): row[5] for row in found["rows"]}
    assert texts["pgd-at+clat, critical", "clean"] == "failed: diverged at epoch 3"
    assert texts["pgd-at", "clean"][0].isdigit()
    assert found["failed"] == 3
    assert "failed: diverged at epoch 3" in (tmp_path / "T7" / "page.html").read_text()


@pytest.mark.parametrize("name", ["T7", "F3"])
def test_where_no_lambda_can_be_chosen_what_needs_none_goes_on(tmp_path, monkeypatch, name):
    held = store.run_row
    monkeypatch.setattr(
        store, "run_row", lambda row, *rest: "diverged at epoch 3" if "clat" in row.name else held(row, *rest)
    )
    asked = replace(DIGITS, rows=("pgd-at", "pgd-at+clat, critical") if name == "T7" else (), seeds=1)
    found = run(name, tmp_path, asked, replace(TINY, ratios=(0.03, 0.3)))
    failures = {(entry["row"].lower(), entry["failure"]) for entry in found["entries"]}
    assert ("pgd-at", None) in failures
    others = {failure for row, failure in failures if not row.startswith("pgd-at") or "clat" in row}
    assert others == {"lambda could not be chosen: ratio 0.03: diverged at epoch 3"}


def test_missing_data_is_named_in_its_cells_and_refused_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "nothing"))
    table, there = find_table("T1"), {"cifar10": "digits"}
    held = Store(tmp_path, TINY, there)
    request = request_for(table, Asked(folders=there), held, QUIET)
    assert list(request.missing) == ["cifar100"]
    assert "put the Hugging Face parquet files" in request.missing["cifar100"]
    with pytest.raises(ClatError, match=r"^T7 has no data to run on: data set 'cifar10' not found"):
        request_for(find_table("T7"), Asked(), held, QUIET)


@pytest.mark.parametrize(("name", "what"), [("imagenet", "train/ and val/"), ("svhn", "parquet")])
def test_data_that_no_hub_gives_is_said_with_its_layout(name, what, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path))
    (told,) = check_data([name], {}).values()
    assert what in told
    assert f"--data {name}=FOLDER" in told
    assert "did you mean" not in told


def test_one_folder_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path / "root"))
    for name in ("root/cifar10", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for folder in ("cifar10", "root/cifar10", "root/cifar10/", str(tmp_path / "root" / "cifar10")):
        assert in_one_spelling({"cifar10": folder}) == {}
    (tmp_path / "cifar100").mkdir()
    assert in_one_spelling({"cifar100": "cifar100"}) == in_one_spelling({"cifar100": "./cifar100"}) == {}
    for folder in ("elsewhere", "./elsewhere/", str(tmp_path / "elsewhere")):
        assert in_one_spelling({"cifar10": folder}) == {"cifar10": str(tmp_path / "elsewhere")}
    assert in_one_spelling({"cifar10": "digits"}) == {"cifar10": "digits"}


def test_lambda_is_chosen_by_its_rule(tmp_path, monkeypatch):
    held = Store(tmp_path, replace(TINY, ratios=(0.03, 0.1, 0.3)), {"cifar10": "digits"})
    trained = []
    monkeypatch.setattr(held, "train", lambda run, console: trained.append(run.spec.ratio))
    monkeypatch.setattr(held, "is_finished", lambda run: run.spec.ratio in trained)
    scores = {0.03: 0.2, 0.1: 0.25, 0.3: 0.25}
    monkeypatch.setattr(held, "summary", lambda run: {"last": {"heldout_robust": scores[run.spec.ratio]}})
    found = choose_ratio(held, "resnet18", "cifar10", QUIET)
    assert found.ratio == 0.1, "the smaller one of a tie"
    assert found.how == "0.1, chosen on 16 held-out images (0.03: 20.0%, 0.1: 25.0%, 0.3: 25.0%)"
    trained.clear()
    monkeypatch.setattr(held, "train", lambda run, console: "out of memory")
    with pytest.raises(ClatError, match=r"lambda could not be chosen: ratio 0\.03: out of memory"):
        choose_ratio(held, "resnet18", "cifar10", QUIET)


def test_a_ratio_whose_network_could_not_be_trained_is_left_out(tmp_path, monkeypatch):
    held = Store(tmp_path, replace(TINY, ratios=(0.03, 0.1, 1.0)), {"cifar10": "digits"})
    monkeypatch.setattr(held, "train", lambda run, _: "diverged" if run.spec.ratio == 1.0 else None)
    monkeypatch.setattr(held, "is_finished", lambda run: run.spec.ratio != 1.0)
    scores = {0.03: 0.2, 0.1: 0.25}
    monkeypatch.setattr(held, "summary", lambda run: {"last": {"heldout_robust": scores[run.spec.ratio]}})
    found = choose_ratio(held, "resnet18", "cifar10", QUIET)
    assert found.ratio == 0.1
    assert found.how == "0.1, chosen on 16 held-out images (0.03: 20.0%, 0.1: 25.0%, 1: failed)"


def test_examples_made_on_one_network_are_shown_to_the_others(tmp_path):
    asked = replace(DIGITS, networks=("resnet18", "vgg19"), rows=("pgd-at",))
    found = run("T4", tmp_path, asked)
    assert [row[1:3] for row in found["rows"]] == [
        ["resnet18", "pgd-at, from vgg19"], ["vgg19", "pgd-at, from resnet18"]
    ]  # fmt: skip
    assert found["failed"] == 0
    (kept,) = (tmp_path / "store" / "transfers").iterdir()
    wrong = json.loads(kept.read_text())
    wrong["right"] = {pair: "0" * len(bits) for pair, bits in wrong["right"].items()}
    kept.write_text(json.dumps(wrong))
    assert run("T4", tmp_path, asked)["rows"] != found["rows"], "measured once a store"
    (name, digest), *_ = wrong["weights_sha256"].items()
    kept.write_text(json.dumps(wrong | {"weights_sha256": wrong["weights_sha256"] | {name: digest[::-1]}}))
    assert run("T4", tmp_path, asked)["rows"] == found["rows"], "a network that was trained anew is measured anew"
    for file in (tmp_path / "store" / "runs").glob("*/weights/last.safetensors"):
        file.unlink()
    kept.write_text(json.dumps(wrong))
    assert run("T4", tmp_path, asked)["rows"] != found["rows"], "a store without networks is taken at its word"


def test_layers_are_ranked_selected_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr("clat.studies.paper.layer_tables.FULL", TINY)
    found = run("T8", tmp_path)
    assert [row[2] for row in found["rows"]] == ["random, full width", "PGD-AT, tiny"]
    assert all(len(row[3].split()) == 5 for row in found["rows"])
    assert found["rows"][0][4] == "11 10 4 2 12"
    with monkeypatch.context() as patch:
        patch.setattr("clat.studies.paper.layer_tables.top_layers", None)
        assert run("T8", tmp_path)["rows"] == found["rows"], "ranked once a store"
    selected = run("T13", tmp_path)
    assert [row[4] for row in selected["rows"]] == ["11", "11", "4"]
    (report, *_) = sorted((tmp_path / "store" / "runs" / selected["entries"][0]["run"] / "criticality").iterdir())
    moved = report.rename(tmp_path / report.name)
    without = run("T13", tmp_path)
    assert "failed: " in without["rows"][0][3]
    assert f"its rankings are not in the store: criticality/{report.name}" in without["rows"][0][3]
    assert without["rows"][1] == selected["rows"][1], "the others go on"
    assert without["failed"] == 1
    moved.rename(report)
    assert selected["rows"][2][3] == "not at this scale, whose stage selects 2 times"
    assert selected["failed"] == 0
    assert selected["seeds"] == [0], "the layers of one network"
    assert "X's part is 2 of 4 epochs" in selected["caption"]
    timed = run("T10", tmp_path, replace(DIGITS, networks=()))
    assert [row[3] for row in timed["rows"][:4]] == ["10", "30", "50", "100"]
    assert float(timed["rows"][0][5]) == 1.0


def test_the_epochs_of_methods_are_timed_against_pgd_at(tmp_path, one_process):
    found = run("D9", tmp_path, replace(DIGITS, networks=(), datasets=()))
    rows = {(row[0], row[1].partition(",")[0]): float(row[3]) for row in found["rows"]}
    assert rows["pgd-at", "an epoch"] == 1.0
    assert 0 < rows["pgd-at+rift", "an epoch"] < 1
    assert rows["pgd-at+rift", "the whole training"] == pytest.approx(
        110 + 10 * rows["pgd-at+rift", "an epoch"], abs=0.1
    )
    assert not one_process, "nothing is trained"


def test_one_seed_settles_nothing():
    clear = np.ones((2, 50)) * 0.5 + np.random.default_rng(0).normal(0, 0.1, (2, 50))
    cell = Cell(dataset="d", network="n", row="r", attack="a", kind="clean", printed_effect=1.0)
    assert replace(cell, effect=crossed_interval(clear)).settled == "same sign"
    assert replace(cell, effect=crossed_interval(-clear)).settled == "opposite"
    assert replace(cell, effect=crossed_interval(clear[:1])).settled == "not settled"
    assert replace(cell, effect=crossed_interval(clear), printed_effect=0.0).settled == "not 0"


def test_parameters_are_counted_without_training(tmp_path, one_process):
    found = run("T9", tmp_path, replace(DIGITS, networks=("resnet18",)))
    assert [row[3] for row in found["rows"]] == ["11,173,962", "589,824", "5.28 %"]
    assert found["remark"] == "Networks at full width; nothing is trained."
    assert found["facts"] == []
    assert not one_process


def test_a_figure_draws_what_it_measures(tmp_path, monkeypatch):
    spec = {"network": "resnet18", "dataset": "cifar10", "seed": 0}
    pair = [Curve(name="PGD-AT", spec=RunSpec(**spec)), Curve(name="k = 1", spec=RunSpec(follower="clat", **spec))]
    monkeypatch.setattr("clat.studies.paper.figures.figure_curves", lambda *_: pair)
    found = run("F3", tmp_path)
    assert [row[2] for row in found["rows"]] == ["PGD-AT", "PGD-AT", "k = 1", "k = 1"]
    assert found["entries"][3]["effect"]["images"] == 20
    assert (tmp_path / "F3" / "f3.svg").is_file()
    curves = run("F5", tmp_path, Asked(folders={"cifar10": "digits"}))
    assert [len(seeds) for seeds in curves["curves"].values()] == [1, 1]
    assert (tmp_path / "F5" / "f5.svg").is_file()


def test_a_figure_keeps_what_could_be_measured(tmp_path, monkeypatch):
    held = store.run_row
    monkeypatch.setattr(
        store, "run_row", lambda row, *rest: "out of memory" if "-s1-" in row.name else held(row, *rest)
    )
    measure_it = Measurement.measure

    def measured(what, *rest):
        if what.eps == "0.02":
            raise ClatError("no luck at 0.02")
        return measure_it(what, *rest)

    monkeypatch.setattr(Measurement, "measure", measured)
    found = run("F4", tmp_path, replace(DIGITS, seeds=2))
    said = {entry["attack"]: entry["failure"] for entry in found["entries"] if entry["kind"] == "robust"}
    wrong = {attack for attack, failure in said.items() if "no luck at 0.02" in failure}
    assert [attack for attack in said if "0.02" in attack] == list(wrong), "the others were measured"
    assert all("out of memory" in failure for failure in said.values())
    assert found["failed"] == len(found["entries"]), "a seed is missing everywhere"


def test_the_plan_counts_checks_on_held_out_images_and_a_stage_that_is_there_once(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_step", lambda *_: (0.0, 0))
    monkeypatch.setattr(attack_plan, "_pass_seconds", lambda *_: 1.0)
    held = Store(tmp_path, replace(TINY, epochs=4, monitor_every=2), DIGITS.folders)
    specs = [RunSpec(network="resnet18", dataset="cifar10", follower=after) for after in ("", "clat")]
    check = TINY.monitored * 2 * 11
    alone = [plan.make_plan([spec], held).seconds for spec in specs]
    assert alone == pytest.approx([plan.SHARE * 2 * check] * 2)
    assert plan.make_plan(specs, held).seconds == pytest.approx(plan.SHARE * 3 * check), "they begin alike"


def test_the_list_and_the_plan_count_the_same_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_step", lambda *_: (0.0, 0))
    monkeypatch.setattr(attack_plan, "_pass_seconds", lambda *_: 0.0)
    monkeypatch.setattr("clat.studies.paper.table.check_data", lambda *_: {})
    for name in ("T1", "T2", "T4", "T8", "T10", "T13"):
        folders = dict.fromkeys(find_table(name).all_datasets(), "digits")
        held = Store(tmp_path / name, replace(SMOKE, seeds=1), folders)
        request = request_for(find_table(name), Asked(folders=folders), held, QUIET)
        assert plan.make_plan(plan.needed_specs(request, (), ()), held).runs == run_count(find_table(name)), name


def test_what_another_method_names_is_trained_once(tmp_path):
    held = Store(tmp_path, SMOKE, DIGITS.folders)
    table = find_table("T2")
    keys = {
        base: [held.run_of(line.spec(table, 0, 0.1)).key for line in table_lines(table) if line.method == base]
        for base in ("madry2019", "madry2019+clat")
    }
    assert keys["madry2019"]
    assert all("-pgd-at-s0-" in key for key in keys["madry2019"])
    assert all("-pgd-at+clat-s0-" in key for key in keys["madry2019+clat"])


def test_the_plan_counts_runs_and_measures_steps(tmp_path):
    held = Store(tmp_path, TINY, DIGITS.folders)
    request = request_for(find_table("T20"), DIGITS, held, QUIET)
    specs = plan.needed_specs(request, (), ())
    found = plan.make_plan(specs, held)
    assert (found.runs, found.finished) == (4, 0)
    assert found.seconds > 0
    assert found.memory > 0
    attacked = plan.make_plan(specs, held, needed_attacks(request, (), ()))
    assert found.attacks == 0 < attacked.attacks
    shown = Console(record=True, width=100, file=io.StringIO())
    shown.print(found.table("T20"))
    text = shown.export_text()
    assert "attacks" in text
    assert "largest step" in text


def test_the_plan_times_rankings_and_transferred_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_step", lambda *_: (0.0, 0))
    monkeypatch.setattr(attack_plan, "_pass_seconds", lambda *_: 1.0)
    held = Store(tmp_path, TINY, DIGITS.folders)
    networks = {"T4": ("resnet18", "vgg19"), "T8": ("resnet18", "vgg19"), "T10": ("densenet121",)}
    asked = {name: replace(DIGITS, networks=some, seeds=2) for name, some in networks.items()}
    tables = {name: request_for(find_table(name), one, held, QUIET) for name, one in asked.items()}
    of = {name: (transfer_passes(request), ranking_passes(request)) for name, request in tables.items()}
    plans = {name: plan.make_plan((), held, (), *passes) for name, passes in of.items()}
    ranked = 22  # ten steps there and back, and two passes for the features
    assert plans["T8"].rankings == ranked * 2 * (10 + min(100, TINY.heldout))
    assert plans["T10"].rankings == ranked * 2 * (10 + 10 + 30 + 50 + 100), "at two widths"
    assert plans["T8"].attacks == plans["T10"].attacks == plans["T4"].rankings == 0
    methods = {line.method for line in tables["T4"].lines}
    how = measure(find_table("T4"), next(iter(tables["T4"].lines)), "pgd-10", TINY)
    made = mean_passes(find_protocol(how.protocol), *TINY.expected, 10)
    seeds = victims = attackers = 2
    expected = len(methods) * seeds * attackers * how.samples * (made + victims)
    assert plans["T4"].attacks == pytest.approx(expected)
    for name in networks["T8"]:
        run = held.run_of(RunSpec(network=name, dataset="cifar10", seed=0))
        for random in (True, False):
            held.kept("rankings", ranking_of(run, random=random), lambda: {"layers": []})
    assert ranking_passes(tables["T8"]) == [], "the store has them"


def test_the_plan_counts_what_a_mixture_is_made_of_and_one_seed_of_selected_layers(tmp_path, monkeypatch):
    held = Store(tmp_path, replace(SMOKE, seeds=3), DIGITS.folders)
    monkeypatch.setattr(plan, "_step", lambda *_: (0.0, 0))
    asked = replace(DIGITS, networks=("wrn-70-16",), rows=("bai2024",))
    request = request_for(find_table("T1"), asked, held, QUIET)
    found = plan.make_plan(plan.needed_specs(request, (), ()), held)
    assert found.runs == 3 * 3, "the natural and the PGD-AT network, and the mixture"
    request = request_for(find_table("T13"), DIGITS, held, QUIET)
    assert plan.make_plan(plan.needed_specs(request, (), ()), held).runs == 1


def test_attacks_are_planned_by_their_passes(tmp_path, monkeypatch):
    held = Store(tmp_path, TINY, DIGITS.folders)
    monkeypatch.setattr(attack_plan, "_pass_seconds", lambda *_: 1.0)
    request = request_for(find_table("F3"), DIGITS, held, QUIET)
    asked = needed_attacks(request, ("resnet18",), ("cifar10",))
    networks = {spec for spec, _ in asked}
    each = mean_passes(find_protocol("clat-pgd-10"), *TINY.expected, 10)
    assert attack_seconds(asked, held, {}) == pytest.approx(len(networks) * TINY.test_size * each)
    one, how = asked[0]
    file = tmp_path / "store" / "evaluations" / held.run_of(one).key / f"{how.file}.json"
    file.parent.mkdir()
    file.touch()
    left = (len(networks) - 1) * TINY.test_size * each
    assert attack_seconds(asked, held, {}) == pytest.approx(left), "what is measured takes nothing"
    assert needed_attacks(request_for(find_table("T9"), DIGITS, held, QUIET), (), ()) == []


@pytest.mark.parametrize(("seeds", "says"), [(1, "interval over images"), (3, "interval over seeds and images")])
def test_the_plot_says_what_its_intervals_are_over(seeds, says):
    differences = np.random.default_rng(0).normal(size=(seeds, 40))
    cell = Cell(dataset="d", network="n", row="r", attack="a", kind="clean", printed_effect=1.0)
    figure = effects([replace(cell, effect=crossed_interval(differences))])
    assert figure.axes[0].get_xlabel().endswith(says)


def test_an_infinite_criticality_is_the_largest(tmp_path):
    """In its file it is null."""
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 1, 1) for _ in range(3)), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )
    x, y = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    found = clat.measure_criticality(net, x, y, eps=0.1)
    rows = [replace(row, criticality=float("inf") if row.name == "1" else row.criticality) for row in found.rows]
    replace(found, rows=tuple(rows)).to_json(tmp_path / "report.json")
    assert "Infinity" not in (tmp_path / "report.json").read_text()
    assert in_order(tmp_path, {"report": "report.json", "layers": ["1", "2"], "indices": [2, 3]}) == [2, 3]
    assert in_order(tmp_path, {"report": "report.json", "layers": ["0", "1"], "indices": [1, 2]}) == [2, 1]


@pytest.mark.parametrize("table", ["T7", "T20", "F3"])
def test_the_plan_counts_what_lambda_is_chosen_from(tmp_path, table):
    held = Store(tmp_path, replace(TINY, ratios=(0.03, 0.1, 0.3)), DIGITS.folders)
    request = request_for(find_table(table), DIGITS, held, QUIET)
    specs = plan.needed_specs(request, ("resnet18",), ("cifar10",))
    tried = {
        spec.ratio for spec in specs if spec.follower == "clat" and (spec.layers, spec.k) == ("critical", None)
    }
    assert tried == {0.03, 0.1, 0.3}


def test_pairs_of_other_images_have_no_effect():
    one = Cell(dataset="d", network="n", row="r", attack="a", kind="clean", verdicts=np.ones((1, 4)), seeds=(0,))
    assert replace(one, failure="killed").texts()[5] == "100.0 [51.0, 100.0]; another seed failed: killed"
    other = replace(one, images=("x",))
    assert effect_of(replace(one, images=("x",)), other).value == 0
    assert effect_of(replace(one, images=("y",)), other) is None
    assert effect_of(replace(other, seeds=(1,)), other) is None


@pytest.mark.parametrize(
    ("row", "against", "less"),
    [
        ("pgd-at+clat, critical", "pgd-at+clat, random", "random"),
        ("pgd-at+clat, critical", "pgd-at", "pgd-at"),
        ("pgd-at, from vgg19", "trades, from vgg19", "trades, from vgg19"),
        ("pgd-at", "", "–"),
    ],
)
def test_a_row_says_what_it_is_compared_with(row, against, less):
    cell = Cell(dataset="d", network="n", row=row, attack="a", kind="clean", against=against)
    assert cell.texts()[COLUMNS.index("less")] == less
    measured = replace(cell, verdicts=np.ones((1, 4)), seeds=(0,)).texts()
    assert measured[COLUMNS.index("less")] == less
    assert len(measured) == len(cell.texts()) == len(COLUMNS)


def test_a_folder_of_something_else_is_refused(tmp_path):
    claim(tmp_path / "a", TINY, [])
    claim(tmp_path / "a", TINY, [])
    with pytest.raises(ClatError, match="holds tables at scale tiny: name another folder for smoke"):
        claim(tmp_path / "a", SMOKE, [])
    (tmp_path / "a" / "T7").mkdir()
    (tmp_path / "a" / "T7" / "table.json").write_text("{}")
    with pytest.raises(ClatError, match="is the folder of one table: name the one above it"):
        claim(tmp_path / "a" / "T7", TINY, [])
    with pytest.raises(ClatError, match="holds something already"):
        claim(tmp_path, TINY, [])


def test_the_command_lists_refuses_and_runs(tmp_path, capsys, monkeypatch):
    assert cli.main(["paper"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("T1", "T20", "F7", "D9", "v1-T10", "cure-T7"))
    out = tmp_path / "out"
    refused = {
        ("T21",): "unknown table 'T21' of the papers; did you mean 'T2",
        ("T7", "--scale", "big"): "unknown scale 'big'",
        ("T7",): "clat paper needs --out",
        ("T7", "--out", str(out), "--networks", "resnet19"): "unknown network 'resnet19' of T7",
        ("T7", "--out", str(out), "--rows", "pgd"): "unknown row 'pgd' of T7",
        ("T7", "--out", str(out), "--data", "cifar1"): "unknown data set 'cifar1' of T7",
        ("T7", "--out", str(out), "--seeds", "0"): "--seeds is 0: expected at least 1",
        ("T7", "--out", str(out), "--data", f"cifar10={tmp_path / 'nowhere'}"): "T7 has no data to run on: ",
        ("all", "--out", str(out), "--rows", "x"): "takes no --networks and --rows",
        ("F3", "--out", str(out), "--rows", "x"): "F3 is a figure without rows: leave out --rows",
    }
    for words, message in refused.items():
        assert cli.main(["paper", *words]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert cli.main(["paper", "T9", "--networks", "resnet18", "--plan"]) == 0
    assert "T9 at scale smoke" in capsys.readouterr().out
    assert cli.main(["paper", "T9", "--networks", "resnet18", "--out", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert cli.main(["paper", "T9", "--out", str(out / "T9")]) == 2
    assert "is the folder of one table" in capsys.readouterr().err


def test_a_table_without_notes_or_plots_is_whole():
    table = {
        "id": "T0", "source": "s", "title": "t", "shows": "w", "scale": "x", "remark": "r", "outcome": "",
        "columns": ["a"], "rows": [["<b>"]], "caption": "c", "notes": [], "facts": [], "made": [],
    }  # fmt: skip
    assert "&lt;b&gt;" in render(table, {"none": None})
    assert markdown(table).startswith("# T0: t (x)\n\nw\n\nr\n\n| a |")


def test_a_page_says_once_what_all_its_rows_share_and_leaves_out_what_is_empty():
    columns = ["data", "network", "row", "paper", "ours"]
    rows = [["cifar10", "resnet18", "pgd-at", "–", "1"], ["cifar10", "resnet50", "pgd-at", "", "1"]]
    kept, left, once = compact(columns, rows)
    assert kept == ["network", "row", "ours"]
    assert left == [["resnet18", "pgd-at", "1"], ["resnet50", "pgd-at", "1"]]
    assert once == [("Data", "cifar10")]
    kept, _, once = compact(columns, rows[:1])
    assert kept == ["data", "network", "row", "ours"], "one row shares with no other"
    assert once == []
    assert compact(["layer"], [["a"], ["a"]]) == (["layer"], [["a"], ["a"]], [])
    assert compact(columns, []) == (columns, [], [])
