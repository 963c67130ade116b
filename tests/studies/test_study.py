"""Studies: rows are chosen with what they build on, run in processes, resumed row by row, and end in one table."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from clat import cli
from clat.core.errors import ClatError
from clat.core.formatting import DASH
from clat.data import hold_out, load_split
from clat.evaluation.compare import compare
from clat.evaluation.statistics import PairedSeeds
from clat.runtime.settings import EngineConfig
from clat.studies import STUDIES, find_study
from clat.studies.collect import caption, cells, collect, markdown, rich_table
from clat.studies.page import render_study, write_study_page
from clat.studies.plots import PlotPoint, clean_against_robust, differences
from clat.studies.row import Scale, chosen
from clat.studies.run import run_row, run_study
from clat.studies.tables.baselines import STAND_IN, write_stand_in
from clat.studies.tables.groups import COLUMNS, group_cells, group_table, summarise
from clat.studies.tables.hardening import CLAT_COST, COST
from clat.training.interrupt import Interrupted
from clat.training.lock import only_one_in
from helpers.studies import QUIET, STUDY, TINY, tiny_rows


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(STUDY, TINY, tiny_rows(TINY), out, QUIET)


def test_every_row_is_in_the_table_with_its_numbers_or_its_failure(done):
    out, table = done
    first, second, failed = table["rows"]
    assert [row["status"] for row in table["rows"]] == ["finished", "finished", "failed"]
    assert "nowhere.pt" in failed["failure"]
    assert first["last"]["clean"]["n"] == second["last"]["robust"]["n"] == 32
    assert first["trainable_parameters"] == first["parameters"] > second["trainable_parameters"]
    assert [stage["name"] for stage in second["stages"]] == ["pgd-at", "clat"]
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(table))


def test_rows_are_compared_with_the_first_one_image_by_image(done):
    out, table = done
    first, second, failed = table["rows"]
    files = [out / "runs" / name / "evaluations" / "last.json" for name in ("pgd-at", "pgd-at+clat")]
    expected = compare(*files).differences["robust"]
    assert second["less_control"]["robust"] == expected.to_dict()
    assert first["less_control"] is failed["less_control"] is None
    low, high = expected.interval
    text = markdown(table)
    assert "| clean less control | robust less control |" in text
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count(" | ") for line in lines}) == 1


def test_the_second_row_takes_over_the_first_stage(done):
    out, _ = done
    for name in ("pgd-at", "pgd-at+clat"):
        assert (out / "runs" / name / "weights" / "stage-1.safetensors").is_file()
    shared = [
        (out / "runs" / name / "weights" / "stage-1.safetensors").read_bytes() for name in ("pgd-at", "pgd-at+clat")
    ]
    assert shared[0] == shared[1]
    assert "stage 1/2" not in (out / "logs" / "pgd-at+clat.log").read_text()


def test_going_on_runs_only_what_is_missing(done, monkeypatch):
    out, _table = done
    called = []
    monkeypatch.setattr("clat.studies.run.run_row", lambda row, *_: called.append(row.name))
    run_study(STUDY, TINY, tiny_rows(TINY), out, QUIET)
    assert called == ["broken"]


def test_a_row_that_was_killed_before_its_page_gets_it(done):
    out, _ = done
    page = out / "runs" / "pgd-at" / "report.html"
    text = page.read_text()
    page.unlink()
    run_study(STUDY, TINY, tiny_rows(TINY)[:1], out, QUIET)
    assert page.read_text() == text


def test_rows_that_died_are_told_from_rows_that_run(done, monkeypatch):
    """In the table, and when the study goes on with them."""
    out, _table = done
    about = out / "runs" / "pgd-at" / "run.json"
    text = about.read_text()
    about.write_text(text.replace('"status": "finished"', '"status": "running"'))
    try:
        with only_one_in(out / "runs" / "pgd-at"):
            assert collect(STUDY, TINY, tiny_rows(TINY)[:1], out)["rows"][0]["status"] == "running"
        table = collect(STUDY, TINY, tiny_rows(TINY)[:1], out)
        assert table["rows"][0]["status"] == "died"
        assert "| pgd-at | died |" in markdown(table)
        assert "died" in render_study(table)
        screen = Console(width=80, record=True, file=io.StringIO())
        monkeypatch.setattr("clat.studies.run.run_row", lambda *_: None)
        run_study(STUDY, TINY, tiny_rows(TINY)[:1], out, screen)
        assert "pgd-at ... going on with a run that died" in screen.export_text()
    finally:
        about.write_text(text)


def test_a_row_that_is_killed_says_by_what(tmp_path, monkeypatch):
    """Not the last line of its log, which is of the epoch before."""
    (tmp_path / "logs").mkdir()
    program = tmp_path / "killed"
    program.write_text("#!/bin/sh\necho epoch 1/2\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr("clat.studies.run.sys.executable", str(program))
    failure = run_row(tiny_rows(TINY)[0], tmp_path / "recipe.toml", tmp_path)
    assert failure == "died of SIGKILL: run the study again to go on with it"


def test_a_call_with_few_rows_shows_what_others_have_finished(done):
    out, _ = done
    table = run_study(STUDY, TINY, tiny_rows(TINY)[1:2], out, QUIET)
    assert [row["name"] for row in table["rows"]] == ["pgd-at", "pgd-at+clat"]
    recipe = out / "recipes" / "pgd-at.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("batch_size = 32", "batch_size = 16"))
    try:
        table = run_study(STUDY, TINY, tiny_rows(TINY)[1:2], out, QUIET)
    finally:
        recipe.write_text(text)
    assert [row["name"] for row in table["rows"]] == ["pgd-at+clat"], "a row of other settings is not the study's"


def test_the_table_and_the_page_name_every_row_and_the_paper(done, tmp_path):
    _, table = done
    text = markdown(table)
    assert "81.5 / 53.6 PGD-10 (T1)" in text
    assert "failed: " in text
    page = render_study(table)
    assert all(row["name"] in page for row in table["rows"])
    assert "<svg" in page
    assert write_study_page(table, tmp_path).is_file()
    assert (tmp_path / "clean-robust.svg").is_file()


def test_rows_from_before_a_setting_was_there_are_kept(done):
    out, _ = done
    file = out / "recipes" / "pgd-at.toml"
    text = file.read_text()
    assert "random_start = true\n" in text
    file.write_text(text.replace("random_start = true\n", ""))
    table = run_study(STUDY, TINY, tiny_rows(TINY), out, QUIET)
    assert [row["status"] for row in table["rows"]] == ["finished", "finished", "failed"]


def test_a_row_in_another_precision_than_most_is_told_of(done, tmp_path):
    out, _ = done
    shutil.copytree(out, tmp_path / "out")
    rows = [replace(row, name=f"{row.name}{n}") for n in "abc" for row in tiny_rows(TINY)[:1]]
    for row in rows:
        shutil.copytree(out / "runs" / "pgd-at", tmp_path / "out" / "runs" / row.name)
    file = tmp_path / "out" / "runs" / rows[1].name / "run.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"environment": about["environment"] | {"precision": "bf16-mixed"}}))
    found = [row["warnings"] for row in collect(STUDY, TINY, rows, tmp_path / "out")["rows"]]
    assert found == [[], ["trained in bf16-mixed, other rows in 32"], []]
    named = [replace(row, recipe=replace(row.recipe, engine=EngineConfig(precision="32"))) for row in rows]
    assert not any(row["warnings"] for row in collect(STUDY, TINY, named, tmp_path / "out")["rows"]), (
        "by its recipe"
    )


def test_a_folder_of_another_study_or_scale_is_refused(done, tmp_path):
    out, _ = done
    other = Scale("other", 1, 1, TINY.settings, "")
    with pytest.raises(ClatError, match="holds the study tiny-study at scale tiny"):
        run_study(STUDY, other, tiny_rows(other), out, QUIET)
    changed = Scale("tiny", 1, 2, TINY.settings, "")
    with pytest.raises(ClatError, match="differs from what the row"):
        run_study(STUDY, changed, tiny_rows(changed), out, QUIET)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ClatError, match="holds something"):
        run_study(STUDY, TINY, tiny_rows(TINY), tmp_path, QUIET)


def test_a_study_that_was_killed_at_its_very_beginning_goes_on(tmp_path):
    """Before the study says what it is, and before it has its folders."""
    (tmp_path / ".study.json.a1b2c3.tmp").write_text("{")
    run_study(STUDY, TINY, [], tmp_path, QUIET)
    for folder in ("recipes", "runs", "logs"):
        (tmp_path / folder).rmdir()
    run_study(STUDY, TINY, [], tmp_path, QUIET)
    assert (tmp_path / "logs").is_dir()


@pytest.mark.parametrize("text", ['{"study": ', "[]", "\udcff"])
def test_a_damaged_study_is_named(tmp_path, text):
    (tmp_path / "study.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ClatError, match=r"study\.json cannot be read"):
        run_study(STUDY, TINY, [], tmp_path, QUIET)


PATIENT = """#!/bin/sh
trap 'echo stopped; exit 143' TERM
trap 'echo stopped; exit 130' INT
echo $$ > pid
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_study_that_is_stopped_leaves_no_row_at_work(number, raised, tmp_path, monkeypatch):
    """Also where the signal reaches the study alone, as `kill` sends it."""
    (tmp_path / "logs").mkdir()
    program = tmp_path / "patient"
    program.write_text(PATIENT)
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clat.studies.run.sys.executable", str(program))

    def stop():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(raised):
        run_row(tiny_rows(TINY)[0], tmp_path / "recipe.toml", tmp_path)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped" in (tmp_path / "logs" / "pgd-at.log").read_text()


def test_a_failed_row_leaves_the_others_room_on_the_screen(done):
    _, table = done
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(rich_table(table))
    text = screen.export_text()
    assert all(row["name"] in text for row in table["rows"])


def test_chosen_rows_come_with_what_they_build_on():
    rows = tiny_rows(TINY)
    assert [row.name for row in chosen(rows, ["pgd-at+clat"])] == ["pgd-at", "pgd-at+clat"]
    assert chosen(rows, []) == rows
    with pytest.raises(ClatError, match="did you mean 'pgd-at'"):
        chosen(rows, ["pgdat"])


@pytest.mark.parametrize("name", sorted({*STUDIES} - {"hardening"}))
def test_the_rows_of_every_study_are_valid_recipes_of_one_budget(name, tmp_path):
    study = find_study(name)
    for scale in study.scales:
        rows = study.rows(scale, tmp_path)
        assert len({row.name for row in rows}) == len(rows)
        names = [row.name for row in rows]
        for row in rows:
            budget = scale.rest if row.needs else scale.epochs
            share = re.search(r"^pgd-at-(\d+)%$", row.name)  # these controls stop earlier, and say so
            assert row.recipe.total_epochs == round(int(share[1]) / 100 * budget if share else budget), row.name
            for earlier in (*row.needs, row.reuse or row.name):
                assert names.index(earlier) <= names.index(row.name)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_stage_of_clat_selects_at_least_twice_unless_its_row_says_that_it_is_fixed(name, tmp_path):
    """Selecting once is the variant that the paper calls non-dynamic, and puts below PGD-AT."""
    study = find_study(name)
    for scale in study.scales:
        for row in study.rows(scale, tmp_path):
            for stage in row.recipe.stages:
                if not stage.objective.name.startswith("clat") or stage.selection.rule in ("all", "named"):
                    continue
                every = stage.selection.every
                if "non-dynamic" in row.note:
                    continue
                assert every == 0 if "fixed" in row.name else 0 < every < stage.epochs, (scale.name, row.name)


def test_fast_at_is_the_papers_network_and_both_of_its_forms_of_clat_are_there(tmp_path):
    rows = {row.name: row for row in find_study("baselines").rows(find_study("baselines").at("short"), tmp_path)}
    forms = {"fast-at": ("fast-at", 45.55), "fast-at+clat": ("clat-fast", 49.62)}
    forms["fast-at+clat-ten-steps"] = ("clat", 52.13)
    for name, (objective, robust) in forms.items():
        assert rows[name].recipe.model.name == "preact-resnet18-raw"
        assert rows[name].recipe.stages[-1].objective.name == objective
        assert rows[name].paper.robust == robust


def test_the_rows_that_harden_begin_alike_and_take_about_one_time(tmp_path):
    study = find_study("hardening")
    for scale in study.scales:
        rows = study.rows(scale, tmp_path)
        assert len({row.name for row in rows}) == len(rows)
        assert len({row.recipe.stages[0] for row in rows}) == 1
        for row in rows:
            first, *rest = row.recipe.stages
            assert (first.name, first.epochs) == ("clean", scale.start)
            candidate = row.name.split("+")[0].removesuffix("-ema")
            costs = [COST[candidate], CLAT_COST]
            spent = sum(cost * stage.epochs for cost, stage in zip(costs, rest, strict=False))
            assert abs(spent - scale.rest) <= max(costs) / 2, row.name  # whole epochs


@pytest.mark.parametrize(
    ("size", "says"), [(64, "do not use stand in"), (None, "sees no more data than the others")]
)
def test_the_note_on_generated_images_says_what_stands_in_for_them(size, says, tmp_path):
    data = {"name": "digits", "heldout": 32} | ({} if size is None else {"train_size": size})
    baselines = find_study("baselines")
    smoke = baselines.at("smoke")
    scale = replace(smoke, settings={**smoke.settings, "data": data})
    (row,) = (one for one in baselines.rows(scale, tmp_path) if one.name == "wang2023")
    assert says in row.note
    write_stand_in(scale, tmp_path)
    extra = np.load(tmp_path / STAND_IN)["image"]
    training, _ = hold_out(load_split("digits", "train"), 32, row.recipe.data.split_seed, size)
    seen = {one.tobytes() for one in training.images.permute(0, 2, 3, 1).numpy()}
    assert {one.tobytes() in seen for one in extra} == {size is None}


def test_labels_of_rows_that_lie_close_are_set_apart():
    names = ("lora", "clat", "clat-random", "cure", "cure+clat", "twins+clat")
    clean = [0.24 + number / 250 for number in range(len(names))]
    points = [
        PlotPoint(name, (x, x - 0.03, x + 0.03), (0.155, 0.13, 0.18)) for name, x in zip(names, clean, strict=True)
    ]
    figure = clean_against_robust(points)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert [text.get_text() for text in figure.axes[0].texts] == list(names)
    assert all(not one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_differences_plot_has_a_line_a_group_and_cuts_wide_intervals_off():
    def group(name, values):
        pair = PairedSeeds(tuple(values)).to_dict()
        return {"name": name, "clean_less_control": pair, "robust_less_control": pair}

    assert differences([{"name": "pgd-at"}]) is None
    figure = differences([{"name": "pgd-at"}, group("clat", (0.01, 0.03)), group("one-seed", (-0.02,))])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["clat", "one-seed"]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert -3 < low < -2
        assert 3 < high < 4, "two seeds' interval reaches from -11 to 15 points"
        means = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 4.5]
        assert means == pytest.approx([2, -2])


def less_control(number, value):
    """A group of two seeds that differ from the control by `value`, about."""
    pair = PairedSeeds((value, value + 0.005)).to_dict()
    return {"name": f"row-{number}", "clean_less_control": pair, "robust_less_control": pair}


def test_a_collapsed_row_stands_at_the_border_of_the_differences_plot_and_leaves_the_others_their_room():
    close = [less_control(number, 0.002 * number) for number in range(10)]
    figure = differences([*close, less_control("collapsed", -0.31)])
    for axes in figure.axes:
        assert -1 < axes.get_xlim()[0] < 0, "the line at zero stays in view"
        assert axes.get_xlim()[1] > 2
        assert [text.get_text() for text in axes.texts] == ["−30.8"]
    assert len(figure.axes[0].get_yticklabels()) == 11
    assert not [text for axes in differences(close).axes for text in axes.texts]


def test_of_a_few_rows_none_is_far_out():
    figure = differences(
        [less_control(number, value) for number, value in enumerate((-0.02, -0.021, -0.022, -0.09))]
    )
    assert not [text for axes in figure.axes for text in axes.texts]
    assert figure.axes[0].get_xlim()[0] < -9


def test_a_collapsed_row_stands_at_the_border_of_the_clean_robust_plot_with_its_accuracies():
    def point(name, clean, robust):
        return PlotPoint(name, *((value, value - 0.005, value + 0.005) for value in (clean, robust)))

    close = [point(f"row-{number}", 0.40 + 0.002 * number, 0.18 + 0.002 * number) for number in range(10)]
    (axes,) = clean_against_robust([*close, point("collapsed", 0.10, 0.19)]).axes
    low, high = axes.get_xlim()
    assert 39 < low < 40 < 41.8 < high < 43
    label = next(text for text in axes.texts if "collapsed" in text.get_text())
    assert label.get_text() == "collapsed (10.0, 19.0)"
    assert label.xy == (low, pytest.approx(19.0))
    assert {text.get_text() for text in axes.texts} - {label.get_text()} == {point.name for point in close}


def test_an_unfinished_table_has_dashes_and_no_plot(tmp_path):
    table = collect(STUDY, TINY, tiny_rows(TINY)[:1], tmp_path)
    assert table["rows"][0]["status"] == "not run"
    assert "<svg" not in render_study(table)


def test_the_precision_study_differs_in_precision_alone():
    study = find_study("precision")
    scale = study.at("smoke")
    assert len(scale.seeds) == 3
    control, other = (row.recipe for row in study.rows(scale, None))
    assert (control.engine.precision, other.engine.precision) == ("32", "bf16-mixed")
    assert replace(control, name="", engine=other.engine) == replace(other, name="")


def test_seeds_in_a_narrow_terminal_keep_their_names_and_numbers():
    values = {"clean": {"value": 0.3}, "robust": {"value": 0.2}}
    row = {"status": "finished", "last": values, "best": values, "seconds": 1.0, "trainable_parameters": 9}
    entries = [
        {**row, "name": f"{name}@{seed}", "group": name, "seed": seed} for name in ("a", "b") for seed in (0, 1)
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(group_table({"title": "t", "scale": "s", "groups": summarise(entries, "a")}))
    text = console.export_text().replace("\N{NO-BREAK SPACE}", " ")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert ["a", "30.0 % ± 0.0", "20.0 % ± 0.0", "–", "–"] in lines
    assert ["b", "30.0 % ± 0.0", "20.0 % ± 0.0", "±0.0", "±0.0"] in lines


def test_differences_are_to_the_first_row_s_group_whatever_has_finished():
    def row(group, seed, status, share):
        values = {"clean": {"value": share}, "robust": {"value": share}}
        about = {"last": values, "best": values, "seconds": 1.0, "trainable_parameters": 9, "seed": seed}
        return {"name": f"{group}@{seed}", "group": group, "status": status, **about}

    entries = [row("x", 0, "failed", 0.0), row("y", 0, "finished", 0.5), row("y", 1, "finished", 0.5)]
    assert "clean_less_control" not in summarise(entries, "x")[0]
    of_y, of_x = summarise([*entries, row("x", 1, "finished", 0.3)], "x")
    assert "clean_less_control" not in of_x
    assert of_y["clean_less_control"]["value"] == pytest.approx(0.2)
    assert all("clean_less_control" not in one for one in summarise(entries[1:], "x")), "x is not shown"
    assert "+20.0, 1 seed" in group_cells(of_y), "of two seeds one is compared"
    assert "seed" not in " ".join(group_cells(of_x))


def test_the_control_is_the_study_s_first_row_whichever_are_shown(done):
    out, _ = done
    control, other, _ = tiny_rows(TINY)
    first, second = collect(STUDY, TINY, [other, control], out)["rows"]
    assert first["less_control"] is not None
    assert second["less_control"] is None
    table = collect(
        replace(STUDY, rows=lambda *_: [replace(control, name="elsewhere")]), TINY, [other, control], out
    )
    assert all(row["less_control"] is None for row in table["rows"])
    assert cells(table["rows"][1])[4:6] == [DASH, DASH]
    assert "the difference to the study's first row of the same seed" in caption(table)


def test_what_moves_is_a_range_where_seeds_differ():
    values = {"clean": {"value": 0.3}, "robust": {"value": 0.2}}
    about = {"status": "finished", "group": "a", "last": values, "best": values, "seconds": 1.0}
    entries = [
        {**about, "seed": seed, "trainable_parameters": moving} for seed, moving in enumerate((18432, 4608, 9216))
    ]
    (found,) = summarise(entries, "a")
    assert found["trainable_parameters"] == [18432, 4608, 9216]
    moving = COLUMNS.index("moving")
    assert group_cells(found)[moving] == "4,608 to 18,432"
    assert group_cells(summarise(entries[:1], "a")[0])[moving] == "18,432"


def test_the_command_runs_the_first_scale_and_measures_finals(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(STUDIES, "tiny-study", STUDY)
    command = ["study", "tiny-study", "--out", str(tmp_path / "out"), "--rows", "pgd-at"]
    assert cli.main(command) == 0
    for name in ("table.json", "table.md", "study.html", "clean-robust.svg"):
        assert (tmp_path / "out" / name).is_file()
    assert cli.main([*command, "--finals", "pgd-10", "--num-samples", "20"]) == 0
    assert json.loads((tmp_path / "out" / "finals" / "pgd-10.json").read_text())["num_samples"] == 20
    assert cli.main([*command, "--judge", "pgd-10", "--num-samples", "20"]) == 0
    assert json.loads((tmp_path / "out" / "judged" / "pgd-10.json").read_text())["split"] == "heldout"
    with monkeypatch.context() as patch:
        other = replace(STUDY, scales=(replace(TINY, name="wide"), TINY))
        patch.setitem(STUDIES, "tiny-study", other)
        assert cli.main([*command, "--judge", "pgd-10", "--num-samples", "20"]) == 0, "at the folder's own scale"
        assert cli.main([*command, "--scale", "wide", "--judge", "pgd-10", "--num-samples", "20"]) == 2
        assert "holds the study tiny-study at scale tiny" in capsys.readouterr().err
    assert cli.main([*command, "--judge", "pgd-10", "--finals", "pgd-10"]) == 2
    assert "not both: choose first" in capsys.readouterr().err
    assert cli.main(["study", "tiny-study", "--list"]) == 0
    assert "tiny, 2 epochs: pgd-at, pgd-at+clat, broken" in capsys.readouterr().out
    assert cli.main(["study", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny, 2 epochs: 3 rows" in listed
    assert "clat study NAME --list: the rows of one" in listed
    assert cli.main(["study", "claim", "--list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    assert cli.main(["study", "clame", "--list"]) == 2
    assert "did you mean 'claim'?" in capsys.readouterr().err
    assert cli.main([*command, "--scale", "smoke"]) == 2
    assert "unknown scale 'smoke' of the study 'tiny-study'; Valid: " in capsys.readouterr().err


def test_the_caption_names_the_norm():
    protocol = {"name": "pgd-20", "hash": "ab12", "norm": "l2", "eps": "0.5"}
    said = caption({"remark": "", "protocol": protocol, "rows": []})
    assert "(pgd-20, l2 eps 0.5, protocol hash ab12)" in said
    assert "(stadv, protocol hash cd34)" in caption(
        {"remark": "", "protocol": protocol | {"name": "stadv", "hash": "cd34", "eps": None}, "rows": []}
    )
