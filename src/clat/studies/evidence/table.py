"""A regime run: its networks trained and attacked, its table, plot and page written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from clat.core.console import plain_console
from clat.core.environment import describe_environment, invocation
from clat.core.errors import ClatError
from clat.core.formatting import DASH
from clat.runtime.jobs.job import JobPlace
from clat.studies.evidence.answer import answer
from clat.studies.evidence.comparison import CrossedDifference
from clat.studies.evidence.judged import GOAL, Judged, best_control, best_form, judge
from clat.studies.evidence.plot import clean_against_robust
from clat.studies.evidence.regimes import FORMS, EvidenceRow, Regime
from clat.studies.measurement import computing_device
from clat.studies.paper.accuracy import evaluated
from clat.studies.paper.beside import gather, run_beside
from clat.studies.paper.cells import points, verdicts_of
from clat.studies.paper.choose_lambda import ChosenRatio, choose_ratio
from clat.studies.paper.lines import Measure
from clat.studies.paper.methods import EPS
from clat.studies.paper.page import write_files
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store, StoredRun

PROTOCOL = "clat-pgd-10"
COLUMNS = (
    *("row", "seeds", "held-out robust", "clean", "robust", "clean less control", "p", "robust less control", "p"),
    *("smallest seen", "passes"),
)
Ratios = Mapping[str, ChosenRatio | str]


@dataclass(frozen=True, kw_only=True)
class Finals:
    """How the finalists, the best control and the best form, are measured once more."""

    protocol: str
    samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """What of a regime is run, and where."""

    regime: Regime
    store: Store
    seeds: Sequence[int]
    console: Console
    finals: Finals | None = None

    def folder(self, out: Path) -> Path:
        """Return the folder of the table.

        Args:
            out: the folder above it.
        """
        return out / f"evidence-{self.regime.name}{f'-{self.finals.protocol}' if self.finals else ''}"


def run_regime(request: EvidenceRequest, out: Path, place: JobPlace | None = None) -> dict[str, Any]:
    """Train and measure what a regime needs, going on where an earlier call was stopped, and write its files.

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
    while place is not None:
        todo = gather(request.store, lambda: _judged(quiet, chosen_ratios(quiet)), measuring=True)
        if not todo.runs and not todo.measurements:
            break
        run_beside(request.store, todo, place, request.console)
    ratios = chosen_ratios(request)
    found = judge(_judged(request, ratios))
    table = _table(request, ratios, found)
    write_files(table, {"clean-and-robust": clean_against_robust(found)}, folder)
    return table


def chosen_ratios(request: EvidenceRequest) -> dict[str, ChosenRatio | str]:
    """Return the ratio of each form of CLAT, chosen behind X on held-out images with the first seed.

    Args:
        request: what is run.

    Returns:
        Form -> the ratio, or why it could not be chosen.
    """
    regime = request.regime
    found: dict[str, ChosenRatio | str] = {}
    for form in FORMS:
        if not any(row.form == form for row in regime.rows()):
            continue
        try:
            found[form] = choose_ratio(
                request.store,
                regime.network,
                regime.dataset,
                request.console,
                seed=request.seeds[0],
                base=regime.base,
                follower=form,
            )
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
    forms = {row.form for row in regime.rows()} - {""}
    found: dict[RunSpec, None] = {}
    for form in FORMS if len(ratios) > 1 else ():
        for ratio in ratios if form in forms else ():
            row = EvidenceRow(name="", control=False, spec={"follower": form}, form=form)
            found[row.run(regime, seeds[0], ratio)] = None
    for seed in seeds:
        for row in regime.rows():
            found[row.run(regime, seed, ratios[0])] = None
    return list(found)


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
    ratio = ratios.get(row.form)
    if isinstance(ratio, str):
        return Judged(row=row, failure=ratio)
    store = request.store
    runs: list[StoredRun] = []
    wrong: list[str] = []
    for seed in request.seeds:
        run = store.run_of(row.run(request.regime, seed, ratio.ratio if ratio else 0.1))
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
        failure="; ".join(dict.fromkeys([*wrong, *unmeasured])) or None,
    )


def _table(request: EvidenceRequest, ratios: Ratios, found: Sequence[Judged]) -> dict[str, Any]:
    """Return what table.json holds."""
    regime, scale = request.regime, request.store.scale
    environment = describe_environment(computing_device().type)
    command = invocation()
    how = {form: one if isinstance(one, str) else one.how for form, one in ratios.items()}
    protocol = PROTOCOL if request.finals is None else request.finals.protocol
    made = [("command", " ".join(command))] if command else []
    made += [(key, str(value)) for key, value in environment.items()]
    made += [(f"lambda ratio of {form}", text) for form, text in how.items()]
    ns = sorted({one.verdicts["clean"].shape[1] for one in found if one.measured})
    return {
        "what": "evidence",
        "id": f"evidence, {regime.name}",
        "source": "CLAT against its controls",
        "title": regime.title,
        "shows": "Whether a form of CLAT is more robust and more accurate than the best of its controls.",
        "scale": scale.name,
        "remark": scale.remark,
        "outcome": " ".join(answer(regime, found)),
        "columns": list(COLUMNS),
        "rows": [_texts(one) for one in found],
        "caption": (
            f"Percent under {protocol}, eps {EPS}, n = {', '.join(map(str, ns)) or DASH} test images. X: "
            f"{regime.base}; averaged: with averaged weights and label smoothing; stopped: the weights of the best "
            "epoch on held-out images. In brackets: 95 % bootstrap intervals over seeds and images. Less control: "
            "in points, against the control that is the most robust on held-out images. p: two-sided, over seeds "
            "and images, corrected for all forms of CLAT and both accuracies (Holm). Smallest seen: the robust "
            "difference that such a test would have found with a probability of 80 %. Passes: millions of samples, "
            "forward and backward, of a whole run."
        ),
        "notes": [[one.row.name, one.failure] for one in found if one.failure],
        "facts": [
            ("Network", regime.network),
            ("Data", regime.dataset),
            ("Epochs", str(scale.epochs)),
            ("Training images", "all" if scale.train_size is None else f"{scale.train_size:,}"),
            ("Seeds", str(len(request.seeds))),
        ],
        "made": made,
        "failed": sum(not one.measured or bool(one.failure) for one in found),
        "seeds": list(request.seeds),
        "settings": {**vars(scale)} | {"narrow": None},
        "ratios": {form: one if isinstance(one, str) else one.to_dict() for form, one in ratios.items()},
        "protocol": protocol,
        "entries": [one.to_dict() for one in found],
        "environment": environment,
        "command": command,
    }


def _texts(one: Judged) -> list[str]:
    """Return a row as text, for each of COLUMNS."""
    name = one.row.name
    heldout = f"{100 * fmean(one.heldout):.1f}" if one.heldout else DASH
    if not one.measured:
        why = f"failed: {one.failure}" if one.failure else "not run"
        return [name, "0", heldout, why, *[DASH] * (len(COLUMNS) - 4)]
    accuracies = [
        f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        for found in (one.interval("clean"), one.interval("robust"))
    ]
    robust = one.against.get("robust")
    return [
        name,
        str(len(one.seeds)),
        heldout,
        *accuracies,
        *(text for kind in GOAL for text in _difference(one.against.get(kind), one.corrected.get(kind))),
        DASH if robust is None else f"{100 * robust.detectable:.1f}",
        DASH if one.passes is None else f"{one.passes / 1e6:.2f}",
    ]


def _difference(found: CrossedDifference | None, p: float | None) -> list[str]:
    """Return a difference in points with its interval, and its corrected p."""
    if found is None:
        return [DASH, DASH]
    text = f"{points(100 * found.value)} [{points(100 * found.low)}, {points(100 * found.high)}]"
    return [text, DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"]
