"""Rows under any protocol, on held-out images and, once, on the test split."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from clat import cli
from clat.core.errors import ClatError
from clat.data import hold_out, load_split
from clat.evaluation import PROTOCOLS, evaluate_set
from clat.evaluation.protocols import Protocol
from clat.models import load_weights
from clat.recipe.toml import read_recipe, recipe_toml
from clat.runtime.jobs import schedule
from clat.studies.finals import _folder_of, cells, finals_table, measurement_of, run_finals
from clat.studies.row import Row, Scale, Study, make_recipe, seeded, stage
from clat.studies.run import check_recipe, run_study
from clat.training.prepare import build_network
from helpers.places import InThisProcess
from helpers.studies import rows_in_this_process

QUIET = Console(quiet=True)
SCALE = Scale(
    "tiny",
    1,
    1,
    {
        "eps": "0.1",
        "batch_size": 32,
        "model": {"name": "resnet18", "width": 4},
        "data": {"name": "digits", "train_size": 64, "heldout": 32},
        "monitor": {"num_samples": 16, "steps": 1},
        "evaluation": {"weights": "none"},
    },
    "",
    seeds=(0, 1),
)


def rows(scale, out):
    begin = stage("pgd-at", scale.start, {"name": "pgd-at", "steps": 1})
    others = {
        "pgd-at": stage("on", scale.rest, {"name": "pgd-at", "steps": 1}),
        "standard": stage("on", scale.rest, "standard"),
    }
    return [
        Row(name, make_recipe(scale, name, [begin, other]), reuse=None if name == "pgd-at" else "pgd-at")
        for name, other in others.items()
    ]


STUDY = Study("tiny-study", "?", rows, (SCALE,))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("finals") / "out"
    chosen = seeded(rows(SCALE, out), SCALE.seeds)
    with rows_in_this_process():
        table = run_study(STUDY, SCALE, chosen, out, QUIET)
    assert [row["status"] for row in table["rows"]] == ["finished"] * 4
    return out, chosen


def finals(out, chosen, **settings):
    settings = {"protocol": "pgd-20", "num_samples": 40, "precision": "float32", **settings}
    return run_finals(chosen, out, QUIET, **settings)


def test_a_result_of_a_network_that_was_trained_anew_is_not_taken(done, tmp_path):
    out, chosen = tmp_path / "out", done[1]
    shutil.copytree(done[0], out)
    finals(out, chosen, names=["standard"])
    last = out / "runs" / "standard@1" / "weights" / "last.safetensors"
    shutil.copy(out / "runs" / "pgd-at@0" / "weights" / "last.safetensors", last)
    with pytest.raises(ClatError, match=r"standard@1-last.json was measured with weights of SHA-256 \w{12}, which"):
        finals(out, chosen, names=["standard"])
    recipe = out / "runs" / "standard@0" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('eps = "0.1"', 'eps = "0.2"'))
    with pytest.raises(ClatError, match=r"standard@0-last.json was measured with eps 0.1, which"):
        finals(out, chosen, names=["standard"])


def test_a_result_of_another_protocol_of_the_name_is_not_taken(done, tmp_path, monkeypatch):
    out, chosen = tmp_path / "out", done[1]
    shutil.copytree(done[0], out)
    finals(out, chosen, names=["standard@0"])
    file = out / "finals" / "pgd-20" / "standard@0-last.json"
    (row,) = (one for one in chosen if one.name == "standard@0")
    asked = measurement_of(row, out, "last", file, "pgd-20", 40, "float32", "test")
    assert (asked.run, asked.result().protocol_hash) == (str(out / "runs" / "standard@0"), PROTOCOLS["pgd-20"].hash)
    held = json.loads(file.read_text())
    file.write_text(json.dumps(held | {"protocol": held["protocol"] | {"hash": "0123456789ab"}}))
    with pytest.raises(
        ClatError, match=r"measured with protocol pgd-20 of hash 0123456789ab, which .* move the file"
    ):
        asked.result()
    file.write_text(json.dumps(held | {"attack_sources": {"mine:attack": "0123"}}))
    assert asked.result().attack_sources, "whose code cannot be read now"
    monkeypatch.setattr(Protocol, "attack_sources", lambda _: {"mine:attack": "4567"})
    with pytest.raises(ClatError, match="was measured with code of mine:attack of digest 0123, which is not what"):
        asked.result()


def test_rows_that_were_not_asked_for_are_left_out_where_they_are_stale(done, tmp_path):
    out, chosen = tmp_path / "out", done[1]
    shutil.copytree(done[0], out)
    shutil.rmtree(out / "finals", ignore_errors=True)
    finals(out, chosen, names=["standard"])
    last = out / "runs" / "standard@1" / "weights" / "last.safetensors"
    shutil.copy(out / "runs" / "pgd-at@0" / "weights" / "last.safetensors", last)
    console = Console(record=True, width=400, file=io.StringIO())
    table = run_finals(
        chosen, out, console, names=["pgd-at@0"], protocol="pgd-20", num_samples=40, precision="float32"
    )
    assert [(one["name"], one["weights"], one["seeds"]) for one in table["groups"]] == [
        ("pgd-at", "last", [0, 1]), ("pgd-at", "best", [0, 1]), ("standard", "last", [0])
    ]  # fmt: skip
    said = console.export_text()
    assert "standard@1, last: left out: " in said
    assert "was measured with weights of SHA-256" in said
    for run in (out / "runs").iterdir():
        if run.name.startswith("standard"):
            shutil.rmtree(run)
    again = finals(out, chosen, names=["pgd-at@0"])
    assert again["groups"][-1]["seeds"] == [0, 1], "a copy without networks is taken at its word"


def test_every_row_and_the_early_stopped_control(done):
    out, chosen = done
    table = finals(out, chosen)
    assert [(one["name"], one["weights"], one["seeds"]) for one in table["groups"]] == [
        ("pgd-at", "last", [0, 1]),
        ("pgd-at", "best", [0, 1]),
        ("standard", "last", [0, 1]),
    ]
    control, _, other = table["groups"]
    assert "robust_less_control" not in control
    for kind in ("clean", "robust"):
        by_seed = [one["value"] for one in other[f"{kind}_by_seed"]]
        expected = [mine - base for mine, base in zip(other[kind]["values"], control[kind]["values"], strict=True)]
        assert by_seed == pytest.approx(expected)
        assert other[f"{kind}_less_control"]["value"] == pytest.approx(sum(expected) / 2)
    files = sorted(path.name for path in (out / "finals" / "pgd-20").iterdir())
    assert files == sorted(f"pgd-at@{seed}-{weights}.json" for seed in (0, 1) for weights in ("last", "best")) + [
        f"standard@{seed}-last.json" for seed in (0, 1)
    ]
    assert json.loads((out / "finals" / "pgd-20.json").read_text()) == json.loads(json.dumps(table))
    text = (out / "finals" / "pgd-20.md").read_text()
    assert all(cell in text for one in table["groups"] for cell in cells(one))
    measured = table["setting"]
    assert (measured["norm"], measured["eps"], measured["n"]) == ("linf", "0.1", 40)
    assert text.startswith("# pgd-20, linf eps 0.1, on 40 test images of digits\n\nMean over the seeds ± ")
    assert f"Protocol hash {PROTOCOLS['pgd-20'].hash}." in text
    assert "in brackets the 95 % t interval over the seeds." in text
    assert finals_table(table).row_count == 3


def test_the_verdicts_are_those_of_the_weights_on_the_first_test_images(done):
    out, chosen = done
    finals(out, chosen)
    found = json.loads((out / "finals" / "pgd-20" / "standard@1-last.json").read_text())
    assert found["clean_accuracy"]["n"] == 40
    assert found["data"] == {"name": "digits", "split": "test", "n": 40}
    assert found["label"] == "standard@1, last"


def test_what_is_there_is_not_measured_again(done, monkeypatch):
    out, chosen = done
    finals(out, chosen)
    monkeypatch.setattr("clat.studies.measurement.evaluate_set", lambda *_, **__: pytest.fail("measured again"))
    finals(out, chosen)


def test_results_under_the_former_name_of_a_protocol_are_found(tmp_path):
    assert _folder_of("apgd", tmp_path) == "apgd"
    (tmp_path / "standard").mkdir()
    assert (_folder_of("apgd", tmp_path), _folder_of("pgd-20", tmp_path)) == ("standard", "pgd-20")


def test_beside_one_another_they_give_what_they_give_serially(fresh, monkeypatch):
    out, chosen = fresh
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    settings = {"names": ["standard@1"], "split": "heldout", "num_samples": 16}
    serial = finals(out, chosen, **settings)
    files = {file: json.loads(file.read_text()) for file in (out / "judged" / "pgd-20").iterdir()}
    shutil.rmtree(out / "judged")
    place = InThisProcess()
    assert finals(out, chosen, **settings, place=place) == serial
    assert len(place.started) == len(files) == 3
    for file, before in files.items():
        now = json.loads(file.read_text())
        kept = now.keys() - {"cost", "environment", "command"}
        assert {key: now[key] for key in kept} == {key: before[key] for key in kept}
    assert finals(out, chosen, **settings, place=place) == serial
    assert len(place.started) == 3, "what is there is not measured again"


def test_one_that_cannot_be_measured_is_named_when_the_others_are_there(fresh, monkeypatch):
    out, chosen = fresh
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    place = InThisProcess(die=(0, 2))
    with pytest.raises(ClatError, match="pgd-at@1: pgd-at@1-last: died of SIGKILL"):
        finals(out, chosen, names=["pgd-at@1"], split="heldout", num_samples=16, place=place)
    assert [file.name for file in (out / "judged" / "pgd-20").iterdir()] == ["pgd-at@1-best.json"]


def test_what_is_no_measurement_is_refused(capsys):
    assert cli.main(["study", "--measure", '{"run": 1}']) == 2
    assert "--measure takes what clat study --jobs writes" in capsys.readouterr().err


@pytest.fixture
def fresh(done):
    """The same runs, nothing of them measured on held-out images."""
    out, chosen = done
    shutil.rmtree(out / "judged", ignore_errors=True)
    yield out, chosen
    shutil.rmtree(out / "judged")


def test_a_named_row_is_measured_with_its_seeds_of_the_control_and_nothing_else(fresh):
    out, chosen = fresh
    table = finals(out, chosen, names=["standard@1"], split="heldout", num_samples=16)
    assert [(one["name"], one["weights"], one["seeds"]) for one in table["groups"]] == [
        ("pgd-at", "last", [1]),
        ("pgd-at", "best", [1]),
        ("standard", "last", [1]),
    ]
    assert "robust_less_control" in table["groups"][-1]


def test_what_a_row_takes_over_is_not_measured(fresh):
    out, (begin, *others) = fresh
    control = replace(begin, name="other@0", group="other", reuse=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clat.studies.finals.finished", lambda run: run.name != "other@0")
        table = finals(out, [control, begin, *others], names=["standard"], split="heldout", num_samples=16)
    assert [one["name"] for one in table["groups"]] == ["standard"]
    assert "robust_less_control" not in table["groups"][0]  # no control has finished


def test_a_later_call_keeps_the_rows_of_an_earlier_one(fresh):
    out, chosen = fresh
    settings = {"split": "heldout", "num_samples": 16}
    finals(out, chosen, names=["standard@0"], **settings)
    finals(out, chosen, names=["standard@1"], **settings)
    table = finals(out, chosen, names=["pgd-at@0"], **settings)
    seeds = [(one["name"], one["weights"], one["seeds"]) for one in table["groups"]]
    assert seeds == [("pgd-at", "last", [0, 1]), ("pgd-at", "best", [0, 1]), ("standard", "last", [0, 1])]


def test_rows_that_were_measured_otherwise_are_left_out_unless_they_are_named(fresh):
    out, chosen = fresh
    finals(out, chosen, names=["standard@0"], split="heldout", num_samples=15)
    table = finals(out, chosen, names=["standard@1"], split="heldout", num_samples=16)
    assert {seed for one in table["groups"] for seed in one["seeds"]} == {1}
    with pytest.raises(ClatError, match="was measured with num_samples 15"):
        finals(out, chosen, names=["standard@0"], split="heldout", num_samples=16)


def test_a_row_that_has_not_finished(done):
    out, chosen = done
    missing = Row("missing@0", chosen[0].recipe, group="missing")
    with pytest.raises(ClatError, match="missing@0 has not finished"):
        finals(out, [*chosen, missing])


def test_a_network_of_another_recipe_is_not_measured_as_the_row(done):
    out, chosen = done
    changed = [replace(row, recipe=replace(row.recipe, eps="0.2")) for row in chosen]
    with pytest.raises(ClatError, match=r"pgd-at@0\.toml differs from what the row 'pgd-at@0' is now"):
        finals(out, changed)
    with pytest.raises(ClatError, match=r"pgd-at@0\.toml differs"):  # the control of the row that is asked for
        finals(out, [changed[0], *chosen[1:]], names=["standard@0"])


@pytest.mark.parametrize("folder", ["elsewhere/out", "."])
def test_a_folder_that_has_moved_is_measured(folder, tmp_path):
    """Rows name files of their study by its folder, whichever way that is spelt."""

    def row(place, extra):
        settings = {"name": "digits", "extra": {"file": str(place / extra)}}
        data = {**SCALE.settings["data"], **settings}
        scale = replace(SCALE, settings=SCALE.settings | {"data": data})
        return Row("x", make_recipe(scale, "x", [stage("x", 1, {"name": "pgd-at", "steps": 1})]))

    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "x.toml").write_text(recipe_toml(row(Path("out"), "stand-in.npz").recipe))
    check_recipe(row(Path(folder), "stand-in.npz"), tmp_path)
    with pytest.raises(ClatError, match="differs from what the row"):
        check_recipe(row(Path(folder), "other.npz"), tmp_path)


@pytest.mark.parametrize(("name", "value"), [("num_samples", 39), ("num_samples", None), ("precision", "bfloat16")])
def test_a_result_that_was_measured_otherwise_is_refused(done, name, value):
    out, chosen = done
    finals(out, chosen)
    with pytest.raises(ClatError, match=f"was measured with {name} "):
        finals(out, chosen, **{name: value})


def test_held_out_images_judge_before_the_test_split_does(done):
    out, chosen = done
    table = finals(out, chosen, split="heldout", num_samples=30)
    assert table["split"] == "heldout"
    file = out / "judged" / "pgd-20" / "standard@1-last.json"
    found = json.loads(file.read_text())
    assert found["data"]["split"] == "train"
    recipe = read_recipe(out / "runs" / "standard@1" / "recipe.toml")
    _, heldout = hold_out(load_split("digits", "train"), 32, recipe.data.split_seed, 64)
    model = build_network(recipe, 10)
    load_weights(model, out / "runs" / "standard@1" / "weights" / "last.safetensors")
    expected = evaluate_set(model, heldout.take(30), protocol="fgsm", eps="0.1")
    assert found["correct"] == expected.to_dict()["correct"]
    assert "30 held-out images" in finals_table(table).title


def test_no_held_out_images_to_judge_on(done):
    out, (row, *_) = done
    file = out / "runs" / row.name / "recipe.toml"
    before = file.read_text()
    file.write_text(before.replace("[data]\n", '[data]\ndecide_on = "test-split"\n'))
    try:
        with pytest.raises(ClatError, match="holds no training images out"):
            finals(out, [row], split="heldout", protocol="fgsm")
    finally:
        file.write_text(before)
