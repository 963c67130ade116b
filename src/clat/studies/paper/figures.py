"""The papers' figures: accuracy by the number of layers (F3, F7), by eps (F4), and along training (F2, F5, F6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clat.core.errors import ClatError
from clat.studies.paper.accuracy import Request, attack_name, evaluated
from clat.studies.paper.cells import COLUMNS, Cell, effect_of, measured_on, verdicts_of
from clat.studies.paper.choose_lambda import choose_ratio, ratio_specs
from clat.studies.paper.content import Content
from clat.studies.paper.contrast import sentences, sweep_contrasts
from clat.studies.paper.curves import accuracy_by, curves_over_epochs
from clat.studies.paper.lines import Measure
from clat.studies.paper.methods import AVERAGED, EPS
from clat.studies.paper.paper_table import PaperTable
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.scales import K, PaperScale

SWEEP = {"densenet121": (1, 3, 5, 8, 12), "resnet50": (1, 2, 3, 5, 8), "resnet18": (1, 2, 3, 5)}
"""Network -> numbers of layers, the paper's own among them."""
STRENGTHS = ("0", "0.01", "0.02", "0.03", "0.04", "0.06")
RATE = ", rate x "
"""What stands in F6 between a method and what becomes of its learning rate."""
SHARES = (0.3, 0.5, 0.7)
"""Parts of the epochs after which CLAT takes over in F2; the paper's own lengths can only be read off its plot."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One network of a figure: its name there, and what is trained."""

    name: str
    spec: RunSpec


def figure_curves(table: PaperTable, network: str, dataset: str, seed: int, ratio: float) -> list[Curve]:
    """Return the networks of a figure.

    Args:
        table: the figure.
        network: one of its networks.
        dataset: one of its data sets.
        seed: of the runs.
        ratio: CLAT's.

    Returns:
        The curves, PGD-AT first.
    """
    place: dict[str, Any] = {"network": network, "dataset": dataset, "seed": seed}
    clat: dict[str, Any] = {"follower": "clat", "ratio": ratio, **place}
    control = Curve(name="PGD-AT", spec=RunSpec(**place))
    if table.kind == "sweep":
        averaged = Curve(name=AVERAGED, spec=RunSpec(base="ema", **place))
        return [
            control,
            averaged,
            *(Curve(name=f"k = {k}", spec=_with_k(clat, network, k)) for k in SWEEP[network]),
        ]
    if table.kind == "strength":
        return [control, Curve(name="PGD-AT + CLAT", spec=RunSpec(**clat))]
    if table.id == "F2":
        return [control, *(Curve(name=f"CLAT from {s:.0%}", spec=RunSpec(share=s, **clat)) for s in SHARES)]
    if table.id == "F5":
        late, scratch = RunSpec(share=0.7, **clat), RunSpec(share=0.0, **clat)
        return [control, Curve(name="CLAT from 70%", spec=late), Curve(name="CLAT from scratch", spec=scratch)]
    dropped: dict[str, Any] = {"share": 0.7, "drop": True}
    return [
        control,
        Curve(name=f"PGD-AT{RATE}0.1 at 70%", spec=RunSpec(**dropped, **place)),
        Curve(name=f"CLAT{RATE}0.1 at 70%", spec=RunSpec(**dropped, **clat)),
    ]


def _with_k(clat: dict[str, Any], network: str, k: int) -> RunSpec:
    """Return the run with k layers; the paper's own k is the run that other tables have."""
    return RunSpec(**clat, k=None if k == K[network] else k)


def figure_specs(
    table: PaperTable, networks: Sequence[str], datasets: Sequence[str], request: Request
) -> list[RunSpec]:
    """Return every network that a figure needs, at the first ratio of the scale, and those that it is chosen from.

    Args:
        table: the figure.
        networks: of these networks.
        datasets: on these data sets.
        request: has the store and the seeds.

    Returns:
        Specs, each once.
    """
    ratios = request.store.scale.ratios
    found: dict[RunSpec, None] = {}
    for dataset in datasets:
        for network in networks:
            found |= dict.fromkeys(ratio_specs(ratios, network, dataset, seed=request.seeds[0]).values())
            for seed in request.seeds:
                found |= {one.spec: None for one in figure_curves(table, network, dataset, seed, ratios[0])}
    return list(found)


def figure(request: Request, networks: Sequence[str], datasets: Sequence[str]) -> Content:
    """Train what a figure needs, measure it, and draw it.

    Args:
        request: what is run.
        networks: of these networks.
        datasets: on these data sets.

    Returns:
        The figure with the numbers behind it.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    cells: list[Cell] = []
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    chosen = {}
    for dataset in datasets:
        for network in networks:
            blank = Cell(dataset=dataset, network=network, row="all", attack="", kind="robust")
            if dataset in request.missing:
                cells.append(replace(blank, failure=request.missing[dataset]))
                continue
            ratio, unchosen = request.store.scale.ratios[0], ""
            try:
                found = choose_ratio(request.store, network, dataset, request.console, seed=request.seeds[0])
                ratio, chosen[f"{network}, {dataset}"] = found.ratio, found.to_dict()
            except ClatError as error:
                unchosen = str(error)
            by_seed = [figure_curves(request.table, network, dataset, seed, ratio) for seed in request.seeds]
            for one in zip(*by_seed, strict=True):
                if unchosen and one[0].spec.follower.startswith("clat"):
                    cells.append(replace(blank, row=one[0].name, failure=unchosen))
                    continue
                cells += _cells(request, one)
                curves[f"{network}, {one[0].name}"] = _epochs(request, one)
    cells = _less_control(cells)
    between = sweep_contrasts(cells) if request.table.kind == "sweep" else []
    drawn = curves_over_epochs(curves) if request.table.kind == "curves" else accuracy_by(cells, request.table)
    return Content(
        columns=COLUMNS,
        rows=[cell.texts() for cell in cells],
        entries=[cell.to_dict() for cell in cells],
        caption=f"{measured_on(cells)} Effects are against PGD-AT of the same length, at the rate under 'less'. "
        "The paper prints no numbers."
        + (" Curves: held-out training images, PGD-10." if request.table.kind == "curves" else ""),
        about={
            "ratios": chosen,
            "curves": curves if request.table.kind == "curves" else {},
            "contrasts": [one.to_dict() for one in between],
        },
        outcome=sentences(between),
        figures={request.table.id.lower(): drawn},
        failed=sum(cell.failed for cell in cells),
    )


def _cells(request: Request, curve: Sequence[Curve]) -> list[Cell]:
    """Return a curve's cells: clean and robust accuracy, or an accuracy an eps."""
    scale = request.store.scale
    spec = curve[0].spec
    base: dict[str, Any] = {"dataset": spec.dataset, "network": spec.network, "row": curve[0].name}
    runs, failures = [], []
    for one in curve:
        run = request.store.run_of(one.spec)
        failure = request.store.train(run, request.console)
        runs += [] if failure else [run]
        failures += [failure] if failure else []
    found = []
    for how, kind in figure_measures(request.table, scale):
        measured, unmeasured = evaluated(request.store, runs, how)
        records, wrong = list(measured.values()), [*failures, *unmeasured]
        found.append(
            Cell(
                **base,
                attack=attack_name(how, ""),
                kind=kind,
                verdicts=verdicts_of(records, kind) if records else None,
                images=tuple(record.images or "" for record in records),
                seeds=tuple(measured),
                failure="; ".join(dict.fromkeys(wrong)) or None,
            )
        )
    request.console.print(f"{request.table.id}: {spec.dataset}, {spec.network}, {curve[0].name}: measured")
    return found


def figure_measures(table: PaperTable, scale: PaperScale) -> list[tuple[Measure, str]]:
    """Return how a figure's networks are measured.

    Args:
        table: the figure.
        scale: on how many images.

    Returns:
        (measurement, clean or robust) each.
    """
    protocol = "clat-pgd-10"
    at = Measure(protocol=protocol, eps=EPS, samples=scale.test_size)
    if table.kind == "strength":
        return [(at, "clean"), *((replace(at, eps=eps), "robust") for eps in STRENGTHS if eps != "0")]
    return [(at, "clean"), (at, "robust")]


def _less_control(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with their effects against PGD-AT of their network, at the same learning rate."""
    rows = {(c.dataset, c.network, c.attack, c.kind, c.row): c for c in cells}
    found = []
    for cell in cells:
        name, _, rate = cell.row.partition(RATE)
        control = f"PGD-AT{RATE}{rate}" if rate and name != "PGD-AT" else "PGD-AT"
        other = rows.get((cell.dataset, cell.network, cell.attack, cell.kind, control))
        if other is None or cell.row == control:
            found.append(cell)
        else:
            found.append(replace(cell, against=control, effect=effect_of(cell, other)))
    return found


def _epochs(request: Request, curve: Sequence[Curve]) -> list[list[dict[str, Any]]]:
    """Return held-out accuracies by epoch, a list a seed."""
    found = []
    for one in curve:
        run = request.store.run_of(one.spec)
        if not request.store.is_finished(run):
            continue
        keep = ("epoch", "heldout_clean", "heldout_robust")
        records = [record for record in request.store.records(run) if record["event"] == "epoch"]
        found.append([{key: one[key] for key in keep} for one in records if "heldout_robust" in one])
    return found
