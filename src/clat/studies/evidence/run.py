"""A regime run: its rows trained, two of them chosen and confirmed, its table, plot and page written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from clat.core.console import plain_console
from clat.core.errors import ClatError
from clat.runtime.jobs.job import JobPlace
from clat.studies.evidence.confirmation import Confirmation
from clat.studies.evidence.cost import step_ratio
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import EvidenceRow, Regime
from clat.studies.evidence.request import DECIDING, EvidenceRequest
from clat.studies.evidence.screening import GOAL, Screened, control_to_beat, finalist
from clat.studies.evidence.table import Ratios, evidence_table
from clat.studies.paper.accuracy import evaluated
from clat.studies.paper.beside import gather, run_beside
from clat.studies.paper.cells import verdicts_of
from clat.studies.paper.choose_lambda import ChosenRatio, choose_ratio, ratio_specs
from clat.studies.paper.lines import Measure
from clat.studies.paper.page import write_files
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store, StoredRun


def run_regime(request: EvidenceRequest, out: Path, place: JobPlace | None = None) -> dict[str, Any]:
    """Train what a regime needs, choose, confirm, going on where an earlier call was stopped, and write its files.

    Test images are read for the two chosen rows alone, on networks of other seeds than those that chose them.

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
    request.store.precisions.clear()
    if place is not None:
        quiet = replace(request, console=plain_console(quiet=True))
        _beside(request.store, lambda: screen(quiet, chosen_ratios(quiet)), place, request.console)
        chosen = chosen_ratios(quiet)
        found = screen(quiet, chosen)
        _beside(request.store, lambda: confirm(quiet, found, chosen), place, request.console, measuring=True)
    ratios = chosen_ratios(request)
    found = screen(request, ratios)
    confirmed, failures = confirm(request, found, ratios)
    choice = _choice(found, ratios)
    first = first_confirmed(request, choice) if confirmed else None
    table = evidence_table(request, ratios, found, confirmed, failures, first, choice)
    write_files(table, {"clean-and-robust": clean_against_robust(found)}, folder)
    return table


def first_confirmed(request: EvidenceRequest, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was confirmed when the regime's two rows were first confirmed in this store.

    Args:
        request: what is run; where nothing was confirmed before, what is confirmed now is kept as the first.
        choice: finalist, control and ratio of now.

    Returns:
        "fresh", the number of fresh seeds, and of "choice" the finalist, its control and ratio; of a store of an
        earlier clat the number alone.
    """
    regime = request.regime
    now = {"fresh": regime.fresh, "choice": choice}
    return request.store.kept("confirmations", {"regime": regime.name}, lambda: now)


def _choice(found: Sequence[Screened], ratios: Ratios) -> dict[str, Any]:
    form = finalist(found)
    if form is None:
        return {}
    ratio = ratios.get(form.row.form)
    return {
        "finalist": form.row.name,
        "control": control_to_beat(found, form).row.name,
        "ratio": ratio.ratio if isinstance(ratio, ChosenRatio) else None,
    }


def chosen_ratios(request: EvidenceRequest) -> dict[str, ChosenRatio | str]:
    """Return the ratio of each form of CLAT, chosen behind X on held-out images with the first seed.

    Taken is the one that passes X by the most, in the accuracy in which it is nearer to the goal.

    Args:
        request: what is run.

    Returns:
        Form -> the ratio, or why it could not be chosen.
    """
    store, seed = request.store, request.regime.screened_seeds[0]
    x = store.run_of(request.regime.rows()[0].run(request.regime, seed, 0.1))
    failure = store.train(x, request.console)
    last = store.summary(x)["last"] if store.is_finished(x) else None

    def headroom(one: Mapping[str, float]) -> float:
        if last is None:
            return one["heldout_robust"]
        return min(one[f"heldout_{kind}"] - last[f"heldout_{kind}"] - least for kind, least in GOAL.items())

    found: dict[str, ChosenRatio | str] = {}
    for form, choice in request.regime.choices(seed).items():
        try:
            found[form] = choose_ratio(store, console=request.console, score=headroom, **choice)
        except ClatError as error:
            found[form] = str(error)
    return found if failure is None or last is not None else dict.fromkeys(found, failure)


def regime_specs(regime: Regime) -> list[RunSpec]:
    """Return every network that a regime needs, at the first ratio of its scale where one is chosen.

    Which rows are confirmed is not known before: the first control and the first form stand for them.

    Args:
        regime: the regime.

    Returns:
        Specs, each once.
    """
    ratios = regime.scale.ratios
    found: dict[RunSpec, None] = {}
    for choice in regime.choices(0).values():
        found |= dict.fromkeys(ratio_specs(ratios, **choice).values())
    for seed in regime.screened_seeds:
        for row in regime.rows():
            found[row.run(regime, seed, ratios[0])] = None
    for seed in regime.fresh_seeds:
        for row in _stand_ins(regime):
            found[row.run(regime, seed, ratios[0])] = None
    return list(found)


def regime_attacks(request: EvidenceRequest) -> list[tuple[RunSpec, Measure]]:
    """Return how the two chosen rows are measured, the first control and the first form in their place.

    Args:
        request: what would be run.

    Returns:
        (network, how it is attacked) each.
    """
    regime = request.regime
    ratio = regime.scale.ratios[0]
    rows = [(row, seed) for row in _stand_ins(regime) for seed in regime.fresh_seeds]
    return [(row.run(regime, seed, ratio), how) for row, seed in rows for how in request.measures]


def _stand_ins(regime: Regime) -> list[EvidenceRow]:
    rows = regime.rows()
    return [next(row for row in rows if row.control is control) for control in (True, False)]


def _beside(
    store: Store, ask: Callable[[], object], place: JobPlace, console: Console, *, measuring: bool = False
) -> None:
    """Train, or train and measure, beside one another what is asked for, until nothing of it is left."""
    while True:
        todo = gather(store, ask, measuring=measuring)
        if not todo.runs and not todo.measurements:
            return
        run_beside(store, todo, place, console)


def _runs(request: EvidenceRequest, row: EvidenceRow, ratios: Ratios, seeds: Sequence[int]) -> list[StoredRun]:
    """Return a row's networks, one a seed; none where its ratio could not be chosen."""
    ratio = ratios.get(row.form)
    if isinstance(ratio, str):
        return []
    value = ratio.ratio if ratio else 0.1
    return [request.store.run_of(row.run(request.regime, seed, value)) for seed in seeds]


def screen(request: EvidenceRequest, ratios: Ratios) -> list[Screened]:
    """Return the rows, trained as far as they could be, on held-out images.

    Args:
        request: what is run.
        ratios: form -> the ratio, or why there is none.

    Returns:
        The controls, then the forms.
    """
    return [_screened(request, row, ratios) for row in request.regime.rows()]


def _screened(request: EvidenceRequest, row: EvidenceRow, ratios: Ratios) -> Screened:
    store, failed = request.store, ratios.get(row.form)
    if isinstance(failed, str):
        return Screened(row=row, failure=failed)
    wrong: list[str] = []
    runs = _runs(request, row, ratios, request.regime.screened_seeds)
    for run in runs:
        failure = store.train(run, request.console)
        wrong += [failure] if failure else []
    trained = [run for run in runs if store.is_finished(run)]
    if not trained:
        return Screened(row=row, failure="; ".join(dict.fromkeys(wrong)) or None)
    told = [store.summary(run) for run in trained]
    step = None
    if not row.control and store.gathered is None:  # what only notes what is to be trained measures nothing
        try:
            step = step_ratio(store, trained[0])
        except ClatError as error:
            wrong.append(f"its step could not be timed: {error}")
    return Screened(
        row=row,
        heldout={kind: tuple(one[row.weights][f"heldout_{kind}"] for one in told) for kind in GOAL},
        passes=fmean(one["cost"]["forwards"] + one["cost"]["backwards"] for one in told),
        step=step,
        complete=len(trained) == len(request.regime.screened_seeds),
        failure="; ".join(dict.fromkeys(wrong)) or None,
        warnings=warnings_of(store, trained),
    )


def warnings_of(store: Store, runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """Return what networks warned of while they were trained, such as catastrophic overfitting.

    Args:
        store: where they are.
        runs: finished ones.

    Returns:
        A text a warning, with its seed.
    """
    return tuple(f"seed {run.spec.seed}: {text}" for run in runs for text in store.summary(run).get("warnings", ()))


def confirm(
    request: EvidenceRequest, found: Sequence[Screened], ratios: Ratios
) -> tuple[list[Confirmation], list[str]]:
    """Return the finalist and its control on test images, on networks of fresh seeds.

    Args:
        request: what is run.
        found: the rows, screened.
        ratios: form -> the ratio, or why there is none.

    Returns:
        (a confirmation a protocol, what decides first; why networks could not be trained or measured). A seed of
        which one of the two is missing is left out.
    """
    form = finalist(found)
    if form is None:
        return [], []
    control = control_to_beat(found, form)
    trained: dict[str, list[StoredRun]] = {}
    wrong: list[str] = []
    for one in (control, form):
        runs = _runs(request, one.row, ratios, request.regime.fresh_seeds)
        failures = [request.store.train(run, request.console) for run in runs]
        wrong += [failure for failure in failures if failure]
        trained[one.row.name] = [run for run, failure in zip(runs, failures, strict=True) if not failure]
    confirmed = []
    for how in request.measures:
        records = {}
        for one in (control, form):
            kept = replace(how, weights=one.row.weights)
            records[one.row.name], unmeasured = evaluated(request.store, trained[one.row.name], kept)
            wrong += unmeasured
        seeds = tuple(sorted(set(records[control.row.name]) & set(records[form.row.name])))
        for seed in seeds:
            if len({records[one.row.name][seed].images for one in (control, form)}) > 1:
                raise ClatError(f"seed {seed} was measured by {how.protocol} on images of two kinds: move one away")
        if seeds:
            by_control, by_form = (
                {kind: verdicts_of([records[one.row.name][seed] for seed in seeds], kind) for kind in GOAL}
                for one in (control, form)
            )
            confirmed.append(
                Confirmation(
                    control=control,
                    form=form,
                    seeds=seeds,
                    missing=tuple(seed for seed in request.regime.fresh_seeds if seed not in seeds),
                    protocol=how.protocol,
                    by_control=by_control,
                    by_form=by_form,
                    warnings={name: warnings_of(request.store, runs) for name, runs in trained.items()},
                )
            )
            request.console.print(f"{request.regime.name}: {how.protocol}: measured")
    if all(one.protocol != DECIDING for one in confirmed):
        confirmed = []  # what is measured beside it decides nothing
    return confirmed, list(dict.fromkeys(wrong))
