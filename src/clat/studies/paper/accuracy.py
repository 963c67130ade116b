"""Tables of accuracies: networks are trained, attacked, and set beside the printed numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from clat.core.errors import ClatError
from clat.evaluation.result import EvaluationRecord
from clat.studies.paper.cells import Cell, effect_of, verdicts_of
from clat.studies.paper.choose_lambda import ChosenRatio, choose_ratio, ratio_specs
from clat.studies.paper.lines import Measure, TableLine, measure, reference, table_lines, taken_apart
from clat.studies.paper.methods import METHODS
from clat.studies.paper.paper_table import PaperTable
from clat.studies.paper.printed import Printed, printed_elsewhere
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store, StoredRun

Numbers = Mapping[TableLine, Sequence[Printed]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What of a table is run, and where."""

    table: PaperTable
    lines: Numbers
    store: Store
    seeds: Sequence[int]
    console: Console
    missing: Mapping[str, str]
    """Data set -> why it cannot be read."""


def asked_cells(table: PaperTable, line: TableLine, lines: Numbers) -> list[tuple[str, str, Printed | None]]:
    """Return what is measured for a line.

    Args:
        table: the table.
        line: a line of it; one that is not printed is measured like all of the table's network and data set.
        lines: those that are asked for.

    Returns:
        (attack, clean or robust, printed number) each.
    """
    printed = lines[line]
    if printed:
        return [(one.attack, _kind(one), one) for one in printed]
    place = (line.dataset, line.network)
    every = table_lines(table)
    beside = [one for other in every if (other.dataset, other.network) == place for one in every[other]]
    row = (line.dataset, line.network, line.method)
    return [
        (attack, kind, printed_elsewhere(table.paper, table.number, row, attack))
        for attack, kind in dict.fromkeys((one.attack, _kind(one)) for one in beside)
    ]


def _kind(printed: Printed) -> str:
    return "clean" if printed.metric == "clean_accuracy" else "robust"


def ratios(request: Request) -> dict[tuple[str, str], ChosenRatio | str]:
    """Return CLAT's ratio for each network and data set, chosen where the scale says so.

    Args:
        request: what is run.

    Returns:
        (network, data set) -> the ratio, or why it could not be chosen.
    """
    found: dict[tuple[str, str], ChosenRatio | str] = {}
    for line in request.lines:
        place = (line.network, line.dataset)
        if place in found or line.dataset in request.missing or not _takes_lambda(line):
            continue
        try:
            found[place] = choose_ratio(request.store, *place, request.console, seed=request.seeds[0])
        except ClatError as error:
            found[place] = str(error)
    return found


def _takes_lambda(line: TableLine) -> bool:
    """Return whether a line's networks end with a stage of CLAT."""
    return taken_apart(line.method)[1].startswith("clat")


def line_runs(
    request: Request, line: TableLine, chosen: Mapping[tuple[str, str], ChosenRatio | str]
) -> list[StoredRun] | str:
    """Return the networks of a line, one a seed, or why there are none.

    Args:
        request: what is run.
        line: a line of its table.
        chosen: (network, data set) -> the ratio, or why there is none.

    Returns:
        The runs in the order of the seeds, or the message for the line's cells.
    """
    if line.dataset in request.missing:
        return request.missing[line.dataset]
    ratio = chosen.get((line.network, line.dataset))
    if isinstance(ratio, str) and _takes_lambda(line):
        return ratio
    of_losses = ratio.ratio if isinstance(ratio, ChosenRatio) else 0.1  # what has no CLAT stage does not read it
    try:
        specs = [line.spec(request.table, seed, of_losses) for seed in request.seeds]
        return [request.store.run_of(spec) for spec in specs]
    except ClatError as error:
        return str(error)


def accuracy_cells(
    request: Request, after: Callable[[Sequence[Cell]], None] = lambda cells: None
) -> tuple[list[Cell], dict[str, Any]]:
    """Train and measure a table's networks.

    Args:
        request: what is run.
        after: called with all cells after each line, so that what is done is written.

    Returns:
        The cells in the table's order, and what else the table says: the ratios and how they were chosen.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    chosen = ratios(request)
    done: dict[TableLine, list[Cell]] = {}
    for line in request.lines:
        done[line] = _measured(request, line, line_runs(request, line, chosen))
        after(_with_effects(request, done))
    return _with_effects(request, done), {"ratios": told(chosen)}


def told(chosen: Mapping[tuple[str, str], ChosenRatio | str]) -> dict[str, Any]:
    """Return the ratios as plain data, by network and data set.

    Args:
        chosen: (network, data set) -> the ratio, or why there is none.

    Returns:
        "network, data set" -> plain data.
    """
    return {", ".join(place): one if isinstance(one, str) else one.to_dict() for place, one in chosen.items()}


def _measured(request: Request, line: TableLine, runs: list[StoredRun] | str) -> list[Cell]:
    """Return a line's cells, its networks trained and attacked as far as they could be."""
    failures = [runs] if isinstance(runs, str) else []
    trained: list[StoredRun] = []
    for run in [] if isinstance(runs, str) else runs:
        failure = request.store.train(run, request.console)
        trained += [] if failure else [run]
        failures += [failure] if failure else []
    cells = []
    for attack, kind, printed in asked_cells(request.table, line, request.lines):
        how = measure(request.table, line, attack, request.store.scale)
        records, unmeasured = evaluated(request.store, trained, how)
        wrong = [*failures, *unmeasured]
        base = taken_apart(line.method)[0]
        cells.append(
            Cell(
                dataset=line.dataset,
                network=line.network,
                row=line.name,
                attack=attack_name(how, attack),
                kind=kind,
                verdicts=verdicts_of(list(records.values()), kind) if records else None,
                images=tuple(record.images or "" for record in records.values()),
                seeds=tuple(records),
                printed=printed,
                failure="; ".join(dict.fromkeys(wrong)) or None,
                note=METHODS[base].note,
            )
        )
    if trained:
        request.console.print(f"{request.table.id}: {line.dataset}, {line.network}, {line.name}: measured")
    return cells


def evaluated(
    store: Store, runs: Sequence[StoredRun], how: Measure
) -> tuple[dict[int, EvaluationRecord], list[str]]:
    """Return the results of networks that differ in their seeds.

    Args:
        store: where they are.
        runs: trained networks.
        how: the measurement.

    Returns:
        (seed -> result, why others could not be measured).
    """
    records: dict[int, EvaluationRecord] = {}
    wrong = []
    for run in runs:
        try:
            records[run.spec.seed] = store.evaluate(run, how)
        except ClatError as error:
            wrong.append(str(error))
    return records, wrong


def attack_name(how: Measure, attack: str) -> str:
    """Return what a cell says of its attack: the protocol, and eps where the attack has one.

    Args:
        how: the measurement.
        attack: as printed.csv calls it.

    Returns:
        Such as "clat-pgd-10, eps 0.03"; stAdv and Pixle are bounded otherwise.
    """
    if attack in ("stadv", "pixle"):
        return how.protocol
    return f"{how.protocol}, {'l2 ' if how.norm == 'l2' else ''}eps {how.eps}"


def _with_effects(request: Request, done: Mapping[TableLine, Sequence[Cell]]) -> list[Cell]:
    """Return all cells, those that have another to be compared with with their effects."""
    found = []
    for line, cells in done.items():
        other = reference(line, request.lines, request.table)
        beside = {(one.attack, one.kind): one for one in done.get(other, ())} if other else {}
        for cell in cells:
            theirs = beside.get((cell.attack, cell.kind))
            if other is None or theirs is None:
                found.append(cell)
                continue
            effect = effect_of(cell, theirs)
            printed = printed_effect(cell.printed, theirs.printed)
            flag = printed_effect_flag(cell.printed, theirs.printed)
            found.append(
                replace(cell, against=other.name, effect=effect, printed_effect=printed, printed_effect_flag=flag)
            )
    return found


def printed_effect(mine: Printed | None, theirs: Printed | None) -> float | None:
    """Return the printed effect in points: a difference of two numbers, or one that is printed as such.

    Args:
        mine: the number of the row.
        theirs: that of the row it is compared with.

    Returns:
        Points; None if not both are printed.
    """
    if mine is None or mine.number is None:
        return None
    if mine.metric.endswith("delta"):
        return mine.number
    return None if theirs is None or theirs.number is None else round(mine.number - theirs.number, 2)


def printed_effect_flag(mine: Printed | None, theirs: Printed | None) -> str:
    """Return what is known of the numbers behind a printed effect.

    Args:
        mine: the number of the row.
        theirs: that of the row it is compared with.

    Returns:
        The flag of the row's own number, else that of the other one; empty where there is no effect or no flag.
    """
    if printed_effect(mine, theirs) is None or mine is None:
        return ""
    return mine.flag or ("" if theirs is None else theirs.flag)


def specs_of(request: Request) -> list[RunSpec]:
    """Return every network that the table needs, at the ratio that the scale names first.

    Args:
        request: what would be run.

    Returns:
        Specs, each once, in the order in which they would be trained.
    """
    ratios, seeds = request.store.scale.ratios, request.seeds
    found: dict[RunSpec, None] = {}
    for line in request.lines:
        if line.dataset in request.missing:
            continue
        if _takes_lambda(line):
            found |= dict.fromkeys(ratio_specs(ratios, line.network, line.dataset, seed=seeds[0]).values())
        for seed in seeds:
            found[line.spec(request.table, seed, ratios[0])] = None
    return list(found)
