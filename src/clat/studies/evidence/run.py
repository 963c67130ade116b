"""A regime run: its networks trained and attacked, its table, plot and page written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from clat.bench.timing import ratio as time_ratio
from clat.core.console import plain_console
from clat.core.errors import ClatError
from clat.runtime.jobs.job import JobPlace
from clat.studies.evidence.judged import GOAL, Judged, best_control, best_form, judge
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import EvidenceRow, Regime
from clat.studies.evidence.request import PROTOCOL, EvidenceRequest
from clat.studies.evidence.table import Ratios, evidence_table
from clat.studies.paper.accuracy import evaluated
from clat.studies.paper.beside import gather, run_beside
from clat.studies.paper.cells import verdicts_of
from clat.studies.paper.choose_lambda import ChosenRatio, choose_ratio, ratio_specs
from clat.studies.paper.lines import Measure
from clat.studies.paper.methods import EPS
from clat.studies.paper.page import write_files
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.step_cost import clock, step_times
from clat.studies.paper.store import Store, StoredRun


def run_regime(request: EvidenceRequest, out: Path, place: JobPlace | None = None) -> dict[str, Any]:
    """Train and measure what a regime needs, going on where an earlier call was stopped, and write its files.

    No test image is read before all networks are trained.

    Args:
        request: what is run.
        out: the folder above the table's own.
        place: where networks are trained and attacked beside one another; None: here, one after the other.

    Returns:
        What table.json holds.

    Raises:
        ClatError: If the place cannot train one of its networks.
        KeyboardInterrupt: If a run was asked to stop.
    """
    folder = request.folder(out)
    folder.mkdir(exist_ok=True)
    quiet = replace(request, console=plain_console(quiet=True))
    if place is not None:
        _beside(request.store, lambda: _train(quiet, chosen_ratios(quiet)), place, request.console)
        _beside(request.store, lambda: _judged(quiet, chosen_ratios(quiet)), place, request.console, measuring=True)
    ratios = chosen_ratios(request)
    _train(request, ratios)
    found = _with_steps(request, judge(_judged(request, ratios)), ratios)
    table = evidence_table(request, ratios, found)
    write_files(table, {"clean-and-robust": clean_against_robust(found)}, folder)
    return table


def chosen_ratios(request: EvidenceRequest) -> dict[str, ChosenRatio | str]:
    """Return the ratio of each form of CLAT, chosen behind X on held-out images with the first seed.

    Args:
        request: what is run.

    Returns:
        Form -> the ratio, or why it could not be chosen.
    """
    found: dict[str, ChosenRatio | str] = {}
    for form, choice in request.regime.choices(request.seeds[0]).items():
        try:
            found[form] = choose_ratio(request.store, console=request.console, **choice)
        except ClatError as error:
            found[form] = str(error)
    return found


def regime_specs(regime: Regime, seeds: Sequence[int]) -> list[RunSpec]:
    """Return every network that a regime needs, at the first ratio of its scale where one is chosen.

    Args:
        regime: the regime.
        seeds: of its rows.

    Returns:
        Specs, each once.
    """
    ratios = regime.scale.ratios
    found: dict[RunSpec, None] = {}
    for choice in regime.choices(seeds[0]).values():
        found |= dict.fromkeys(ratio_specs(ratios, **choice).values())
    for seed in seeds:
        for row in regime.rows():
            found[row.run(regime, seed, ratios[0])] = None
    return list(found)


def regime_attacks(regime: Regime, seeds: Sequence[int]) -> list[tuple[RunSpec, Measure]]:
    """Return how the rows of a regime are measured, finals aside.

    Args:
        regime: the regime.
        seeds: of its rows.

    Returns:
        (network, how it is attacked) each.
    """
    how = Measure(protocol=PROTOCOL, eps=EPS, samples=regime.scale.test_size)
    ratio = regime.scale.ratios[0]
    return [
        (row.run(regime, seed, ratio), replace(how, weights=row.weights)) for row in regime.rows() for seed in seeds
    ]


def _beside(
    store: Store, ask: Callable[[], object], place: JobPlace, console: Console, *, measuring: bool = False
) -> None:
    """Train, or train and measure, beside one another what is asked for, until nothing of it is left."""
    while True:
        todo = gather(store, ask, measuring=measuring)
        if not todo.runs and not todo.measurements:
            return
        run_beside(store, todo, place, console)


def _runs(request: EvidenceRequest, row: EvidenceRow, ratios: Ratios) -> list[StoredRun]:
    """Return a row's networks, one a seed; none where its ratio could not be chosen."""
    ratio = ratios.get(row.form)
    if isinstance(ratio, str):
        return []
    value = ratio.ratio if ratio else 0.1
    return [request.store.run_of(row.run(request.regime, seed, value)) for seed in request.seeds]


def _train(request: EvidenceRequest, ratios: Ratios) -> None:
    """Train the rows; a failure is told where the row is measured."""
    for row in request.regime.rows():
        for run in _runs(request, row, ratios):
            request.store.train(run, request.console)


def _judged(request: EvidenceRequest, ratios: Ratios) -> list[Judged]:
    """Return the rows, trained and measured as far as they could be."""
    how = Measure(protocol=PROTOCOL, eps=EPS, samples=request.store.scale.test_size)
    found = [_row(request, row, how, ratios) for row in request.regime.rows()]
    if request.finals is None:
        return found
    last = [one for one in (best_control(found), best_form(found)) if one is not None]
    how = Measure(protocol=request.finals.protocol, eps=EPS, samples=request.finals.samples)
    return [_row(request, one.row, how, ratios) for one in last]


def _row(request: EvidenceRequest, row: EvidenceRow, how: Measure, ratios: Ratios) -> Judged:
    """Return a row, its networks trained and attacked."""
    if isinstance(failed := ratios.get(row.form), str):
        return Judged(row=row, failure=failed)
    store = request.store
    runs: list[StoredRun] = []
    wrong: list[str] = []
    for run in _runs(request, row, ratios):
        failure = store.train(run, request.console)
        runs += [] if failure else [run]
        wrong += [failure] if failure else []
    records, unmeasured = evaluated(store, runs, replace(how, weights=row.weights))
    told = [store.summary(run) for run in runs if store.is_finished(run)]
    if records:
        request.console.print(f"{request.regime.name}: {row.name}: measured")
    return Judged(
        row=row,
        seeds=tuple(records),
        heldout=tuple(one[row.weights]["heldout_robust"] for one in told),
        verdicts={kind: verdicts_of(list(records.values()), kind) for kind in GOAL} if records else {},
        passes=fmean(one["cost"]["forwards"] + one["cost"]["backwards"] for one in told) if told else None,
        complete=not wrong and not unmeasured and len(records) == len(request.seeds),
        failure="; ".join(dict.fromkeys([*wrong, *unmeasured])) or None,
    )


def _with_steps(request: EvidenceRequest, found: Sequence[Judged], ratios: Ratios) -> list[Judged]:
    """Return the rows, the forms of CLAT among them with what their step costs."""
    costs: dict[str, float] = {}

    def cost(row: EvidenceRow) -> float:
        run = _runs(request, row, ratios)[0]
        key = f"{run.spec.base}+{run.spec.follower}"
        if key not in costs:
            times = step_times(request.store, run, {"X": run.recipe.stages[0], "CLAT": run.recipe.stages[-1]})
            costs[key] = time_ratio(times["CLAT"], times["X"], clock())
        return costs[key]

    return [one if one.row.control or not one.measured else replace(one, step=cost(one.row)) for one in found]
