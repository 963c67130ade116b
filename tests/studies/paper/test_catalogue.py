"""The papers' tables: every printed number has a place, and every place a recipe at every scale."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.paper_printed import flag, line, repeated

from clat import cli
from clat.core.errors import ClatError
from clat.evaluation import find_protocol
from clat.studies.paper.accuracy import Request, asked_cells, printed_effect, printed_effect_flag, specs_of
from clat.studies.paper.catalogue import TABLES, find_table
from clat.studies.paper.cells import paper_text
from clat.studies.paper.figures import SWEEP, figure_curves
from clat.studies.paper.folder import claim
from clat.studies.paper.lines import CLAT_PROTOCOLS, CURE_PROTOCOLS, measure, reference, table_lines
from clat.studies.paper.listing import RECORDED, run_count
from clat.studies.paper.methods import METHODS, taken_apart
from clat.studies.paper.printed import FLAGS, printed_elsewhere, printed_in, printed_numbers
from clat.studies.paper.runs import Inputs, RunSpec, recipe
from clat.studies.paper.scales import NARROW, SCALES, SMOKE, K, find_scale
from clat.studies.paper.transfer_tables import transfer_of

INPUTS = Inputs(generated="stand-in.npz", members=(Path("a"), Path("b")))
TRAINED = [table for table in TABLES if table.kind in ("accuracy", "transfer")]


def lines_of(name, *methods):
    return table_lines(find_table(name), rows=methods)


def test_every_printed_table_has_an_entry_and_every_number_a_place():
    places = Counter((table.paper, table.number) for table in TABLES)
    assert max(places.values()) == 1
    printed = {(one.paper, one.table) for one in printed_numbers()}
    assert printed == {(table.paper, table.number) for table in TABLES if table.kind not in FIGURES}
    for table in TABLES:
        placed = [one for numbers in table_lines(table).values() for one in numbers]
        assert Counter(placed) == Counter(printed_in(table.paper, table.number)), table.id
    wanted = {f"T{n}" for n in range(1, 21)} | {f"F{n}" for n in range(2, 8)} | {"D9", "v1-T6", "v1-T8", "v1-T10"}
    assert {table.id for table in TABLES} == wanted | {f"cure-T{n}" for n in (1, 2, 3, 4, 6, 7)}


FIGURES = ("sweep", "strength", "curves")


def test_transferred_examples_of_another_protocol_of_the_name_are_not_taken():
    lines = table_lines(find_table("T4"))
    line = next(iter(lines))
    how = measure(find_table("T4"), line, lines[line][0].attack, SMOKE)
    assert transfer_of({}, how, 0)["protocol_hash"] == find_protocol(how.protocol).hash


def test_printed_numbers_say_what_is_known_of_them():
    assert {one.flag for one in printed_numbers()} == {"", *FLAGS}
    vgg = next(one for one in printed_in("clat-v2", "T9") if one.value == "236000")
    assert vgg.flag == "misprint"
    assert flag("an AutoAttack value, not PGD-10") == "borrowed"
    assert flag("T1 prints 33.23 for this model") == "contradiction"
    made = line(
        dict.fromkeys(("paper", "dataset", "method", "layers", "attack", "metric", "value"), "x")
        | {"table": "D.9", "model": "m", "source_model": "", "note": "epoch=70; not printed"}
    )
    assert (made["table"], made["variant"], made["note"]) == ("D9", "epoch=70", "not printed")


def test_a_borrowed_number_is_borrowed_wherever_it_is_printed():
    one = dict.fromkeys(("paper", "dataset", "network", "method", "attack", "metric", "value"), "x")
    lines = [
        one | {"table": "T1", "flag": "borrowed", "note": "verbatim from elsewhere"},
        one | {"table": "T20", "flag": "", "note": ""},
        one | {"table": "T20", "flag": "", "note": "", "value": "y"},
    ]
    found = repeated(lines)
    assert [row["flag"] for row in found] == ["borrowed", "borrowed", ""]
    assert found[1]["note"] == "as in T1: verbatim from elsewhere"
    rows = {one.number: one.flag for one in printed_in("clat-v2", "T20") if one.method == "pgd-at"}
    assert rows[81.46] == rows[53.63] == "borrowed"


def test_the_data_file_is_what_the_script_writes():
    """Of every line, the flag follows from its note."""
    file = Path(cli.__file__).parent.parent / "studies" / "paper" / "printed.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(printed_numbers()) == 693
    assert all(row["flag"] == flag(row["note"]) for row in rows)


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda one: one.name)
def test_the_recipes_of_every_table_are_valid_and_select_at_least_twice(scale):
    seen = {}
    for table in TABLES:
        for one in table_lines(table) if table in TRAINED or table.id == "T13" else ():
            spec = one.spec(table, 0, 0.1)
            seen[spec] = table
    for table in TABLES:
        for network in table.all_networks() if table.kind in FIGURES else ():
            seen |= {curve.spec: table for curve in figure_curves(table, network, "cifar10", 0, 0.1)}
    for spec in seen:
        made = recipe(spec, scale, INPUTS)
        assert made.threat.text == ("8/255" if spec.cure else "3/100" if "/" in made.threat.text else "0.03")
        for stage in made.stages:
            if stage.objective.name.startswith("clat") and spec.layers != "fixed":
                assert 0 < stage.selection.every <= stage.epochs / 2, spec.label
                assert stage.selection.k == (spec.k or K[spec.network])
        if not spec.cure and spec.base != "bai2024":
            assert made.total_epochs == scale.epochs, spec.label


def test_the_full_scale_is_the_papers():
    full = SCALES["full"]
    made = recipe(RunSpec(follower="clat", network="densenet121", dataset="cifar10"), full, INPUTS)
    first, last = made.stages
    assert (first.epochs, last.epochs, last.selection.every, last.selection.k) == (50, 50, 10, 5)
    assert (made.schedule.kind, made.schedule.lr, made.schedule.epochs) == ("cosine", 0.1, 150)
    assert (first.objective.steps, str(first.objective.alpha)) == (10, "0.007")
    late = recipe(RunSpec(follower="clat", network="resnet18", dataset="cifar10", share=0.7), full, INPUTS)
    assert [stage.epochs for stage in late.stages] == [70, 30]
    dropped = recipe(RunSpec(network="wrn-34-10", dataset="cifar10", share=0.7, drop=True), full, INPUTS)
    for epoch in (70.0, 80.0, 99.5):
        assert dropped.learning_rate(1, epoch) == pytest.approx(made.learning_rate(1, epoch) / 10)


def test_rows_on_top_of_a_method_begin_like_it():
    """So that X's part is trained once."""
    place = {"network": "resnet18", "dataset": "cifar10"}
    firsts = {
        recipe(RunSpec(follower=follower, **place), NARROW, INPUTS).stages[0]
        for follower in ("", "clat", "rift", "lora")
    }
    assert len(firsts) == 1
    fast = recipe(RunSpec(base="fast-at", network="preact-resnet18", dataset="cifar10"), NARROW, INPUTS)
    assert fast.model.name == "preact-resnet18-raw"


def test_a_mixture_goes_on_along_the_rows_learning_rate():
    place = {"base": "bai2024", "network": "wrn-70-16", "dataset": "cifar10"}
    plain = recipe(RunSpec(network="wrn-70-16", dataset="cifar10"), SCALES["full"], INPUTS)
    for follower in ("", "clat", "rift"):
        made = recipe(RunSpec(follower=follower, **place), SCALES["full"], INPUTS)
        assert made.learning_rate(0, 7.0) == pytest.approx(plain.learning_rate(1, 57.0)), follower


def test_what_builds_on_pgd_at_trains_on_in_one_piece():
    """Alone, X keeps the state that a cut in two would reset; behind PGD-AT's part in both."""
    place = {"base": "twins", "network": "resnet18", "dataset": "cifar10"}
    alone, clat = (recipe(RunSpec(follower=follower, **place), SCALES["full"], INPUTS) for follower in ("", "clat"))
    assert [(stage.name, stage.epochs) for stage in alone.stages] == [("pgd-at", 25), ("twins", 75)]
    assert [(stage.name, stage.epochs) for stage in clat.stages] == [("pgd-at", 25), ("twins", 25), ("clat", 50)]
    assert alone.stages[1].optimizer.weight_decay == 1e-5
    assert alone.learning_rate(1, 25.0) == 0.003


def test_authors_settings_follow_the_network():
    resnet, wide = (
        recipe(RunSpec(base="mart", network=network, dataset="cifar10"), SCALES["full"], INPUTS)
        for network in ("resnet18", "wrn-34-10")
    )
    found = [(one.schedule.lr, one.optimizer.weight_decay, one.stages[0].objective.beta) for one in (resnet, wide)]
    assert found == [(0.01, 3.5e-3, 5.0), (0.1, 7e-4, 6.0)]


def test_effects_are_taken_against_what_the_paper_compares_with():
    def against(name, method, layers=""):
        table = find_table(name)
        lines = table_lines(table)
        one = next(line for line in lines if (line.method, line.layers) == (method, layers))
        found = reference(one, lines, table)
        return None if found is None else found.name

    assert against("T1", "trades+clat") == "trades"
    assert against("T7", "pgd-at+clat", "critical") == "pgd-at+clat, random"
    assert against("T7", "pgd-at+clat", "random") == "pgd-at"
    assert against("T20", "pgd-at+clat", "smallest") == "pgd-at"
    assert against("T5", "pgd-at+clat", "fixed") == "pgd-at"
    assert against("T5", "ema") == "pgd-at"
    assert against("T14", "pgd-at+clat", "dynamic") == "pgd-at+clat, fixed"
    assert against("cure-T1", "cure") == "pgd-at"
    assert against("cure-T4", "cure-eff") == "cure"
    rows = table_lines(find_table("cure-T3"))
    last = next(line for line in rows if line.name == "cure, checkpoint=last")
    assert reference(last, rows, find_table("cure-T3")).name == "cure, checkpoint=best", "robust overfitting"
    assert against("cure-T7", "cure-rgp-only") == "cure-none"
    assert against("T1", "pgd-at") is None


def test_printed_effects_are_differences_or_printed_as_such():
    table = find_table("T17")
    (x, base), (clat, above) = list(table_lines(table, networks=["densenet121"]).items())
    assert (x.method, clat.method) == ("pgd-at", "pgd-at+clat")
    assert printed_effect(above[0], base[0]) == 3.70
    one, other = (printed_in("clat-v2", "T7")[number] for number in (0, 3))
    assert printed_effect(one, other) == round(float(one.value) - float(other.value), 2)
    assert printed_effect(None, one) is None


def test_each_attack_is_measured_as_its_table_has_it():
    def how(name, attack, **only):
        table = find_table(name)
        return measure(table, next(iter(table_lines(table, **only))), attack, SMOKE)

    assert how("T7", "pgd-10").protocol == how("T7", "none").protocol == "clat-pgd-10"
    assert (how("T2", "autoattack").protocol, how("v1-T8", "apgd-ce").protocol) == ("clat-v2", "clat-v1")
    assert (how("T17", "pgd-l2").norm, how("T17", "pgd-l2").eps) == ("l2", "128/255")
    assert (how("cure-T1", "cw").protocol, how("cure-T1", "cw").eps) == ("cw-pgd-20", "8/255")
    for table in TRAINED:
        known = CURE_PROTOCOLS if table.paper == "cure" else CLAT_PROTOCOLS
        assert {one.attack for one in printed_in(table.paper, table.number)} <= {"none", *known}, table.id
    best = table_lines(find_table("cure-T3"), rows=["cure, checkpoint=best"])
    assert measure(find_table("cure-T3"), next(iter(best)), "autoattack", SMOKE).weights == "best"


def test_rows_beside_the_printed_ones_are_measured_like_them():
    lines = lines_of("T20")
    ema = next(line for line in lines if line.method == "ema")
    cells = asked_cells(find_table("T20"), ema, lines)
    assert [(attack, kind) for attack, kind, _ in cells] == [
        ("none", "clean"), ("pgd-10", "robust"), ("autoattack", "robust")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "rows"), [("T7", ["ema"]), ("T7", ["pgd-at", "ema"]), ("T5", ["ema"]), ("cure-T4", ["cure"])]
)
def test_rows_that_are_not_printed_are_measured_when_they_are_asked_for_alone(table, rows):
    lines = table_lines(find_table(table), rows=rows)
    assert lines
    assert all(asked_cells(find_table(table), line, lines) for line in lines)


def test_a_row_that_a_table_lacks_has_the_number_of_another_one():
    lines = lines_of("T7")
    control = next(line for line in lines if (line.method, line.network) == ("pgd-at", "resnet18"))
    found = [
        (paper_text(printed), printed.elsewhere) for _, _, printed in asked_cells(find_table("T7"), control, lines)
    ]
    assert found == [("81.46 (T1, borrowed)", "T1"), ("53.63 (T1, borrowed)", "T1"), ("40.48 (T2)", "T2")]
    assert all(printed is None for _, _, printed in asked_cells(find_table("T7"), replace(control, method="ema"), {
        **lines, replace(control, method="ema"): []
    }))  # fmt: skip


def test_all_printed_numbers_of_least_critical_layers_are_above_pgd_at():
    least = [one for one in printed_in("clat-v2", "T20") if one.layers == "smallest"]
    for one in least:
        pgd_at = printed_elsewhere("clat-v2", "T20", (one.dataset, one.network, "pgd-at"), one.attack)
        assert one.number > pgd_at.number
        assert one.flag == "contradiction"
    assert len(least) == 9


def test_a_printed_difference_has_the_flag_of_what_it_is_taken_from():
    fab = {
        one.method: one
        for one in printed_in("clat-v2", "T17")
        if (one.network, one.attack) == ("densenet121", "fab")
    }
    assert fab["pgd-at"].flag == printed_effect_flag(fab["pgd-at+clat"], fab["pgd-at"]) == "contradiction"


def test_a_choice_of_lambda_is_among_the_runs():
    class Held:
        scale = NARROW

    lines = lines_of("T7", "pgd-at+clat, critical")
    request = Request(table=find_table("T7"), lines=lines, store=Held(), seeds=(0,), console=None, missing={})
    ratios = [spec.ratio for spec in specs_of(request) if spec.network == "resnet18"]
    assert sorted(set(ratios)) == [0.03, 0.1, 0.3]


def test_names_that_are_not_there_are_answered_with_the_nearest():
    assert find_table("d.9").id == "D9"
    assert find_table("t7").id == "T7"
    with pytest.raises(ClatError, match="did you mean 'T2"):
        find_table("T21")
    with pytest.raises(
        ClatError, match=r"unknown scale 'narow'; did you mean 'narrow'\? Valid: full, narrow, smoke"
    ):
        find_scale("narow")
    with pytest.raises(ClatError, match="unknown network 'resnet81' of T7; did you mean 'resnet18'"):
        table_lines(find_table("T7"), networks=["resnet81"])
    with pytest.raises(ClatError, match="unknown row 'pgd-at\\+clot' of T7"):
        lines_of("T7", "pgd-at+clot")
    with pytest.raises(ClatError, match="unknown method 'trods'; did you mean 'trades'"):
        taken_apart("trods+clat")


def test_the_list_counts_networks():
    assert run_count(find_table("T5")) == 16
    assert run_count(find_table("T9")) == 0
    assert run_count(find_table("F3")) == sum(map(len, SWEEP.values())) + 2 * 3, "PGD-AT, and averaged"
    assert {taken_apart(one.method)[0] for one in printed_numbers() if one.method != "full-model"} <= set(METHODS)


def test_what_is_said_to_be_recorded_is_there() -> None:
    recorded = Path(__file__).parents[3] / "docs" / "results" / "paper"
    assert {folder.name for folder in recorded.iterdir() if (folder / "page.html").exists()} == set(RECORDED)
    for name in RECORDED:
        assert (recorded / name / "table.md").exists()


def test_a_damaged_folder_of_tables_is_told_in_one_line(tmp_path):
    (tmp_path / "paper.json").write_text('{"scale": "smo')
    with pytest.raises(ClatError, match=r"paper\.json cannot be read"):
        claim(tmp_path, SMOKE, [])
