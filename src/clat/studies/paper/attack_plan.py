"""What the attacks on a table's test images would take: an image's passes, and the time of a pass measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clat.evaluation.dataset import evaluate_set
from clat.evaluation.effort import mean_passes
from clat.evaluation.protocols import find_protocol
from clat.studies.measurement import computing_device
from clat.studies.paper.accuracy import Request, asked_cells
from clat.studies.paper.figures import figure_curves, figure_measures
from clat.studies.paper.lines import Measure, measure
from clat.studies.paper.methods import EPS
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.step_cost import network_and_batch
from clat.studies.paper.store import Store, StoredRun

Attacks = Sequence[tuple[RunSpec, Measure]]


def needed_attacks(request: Request, networks: Sequence[str], datasets: Sequence[str]) -> Attacks:
    """Return what is measured of which network, at the ratio that the scale names first.

    Args:
        request: what would be run.
        networks: of a figure.
        datasets: of a figure.

    Returns:
        (network, how it is attacked) each; none of tables whose examples are transferred, see
        `measured_passes`, or that attack nothing.
    """
    table, scale = request.table, request.store.scale
    if table.kind in ("sweep", "strength", "curves"):
        return [
            (curve.spec, how)
            for dataset in datasets
            if dataset not in request.missing
            for network in networks
            for seed in request.seeds
            for curve in figure_curves(table, network, dataset, seed, scale.ratios[0])
            for how, _ in figure_measures(table, scale)
        ]
    if table.kind != "accuracy":
        return []
    return [
        (line.spec(table, seed, scale.ratios[0]), measure(table, line, attack, scale))
        for line in request.lines
        if line.dataset not in request.missing
        for attack, _, _ in asked_cells(table, line, request.lines)
        for seed in request.seeds
    ]


def attack_seconds(attacks: Attacks, store: Store, timed: dict[str, float]) -> float:
    """Return what attacks take that are not in the store, of networks as accurate as its scale expects.

    Args:
        attacks: from `needed_attacks`, each any number of times.
        store: where their results would be.
        timed: what `pass_seconds` has measured so far.

    Returns:
        Seconds.

    Raises:
        ClatError: If a network cannot be built or attacked.
    """
    seconds = 0.0
    for spec, how in dict.fromkeys(attacks):
        run = store.run_of(spec)
        if Path(store.measurement(run, how).file).exists():
            continue
        count, each = images_and_passes(store, run, how)
        seconds += count * each * pass_seconds(run, store, timed)
    return seconds


def images_and_passes(store: Store, run: StoredRun, how: Measure) -> tuple[int, float]:
    """Return how many test images a network is attacked on, and the passes that each takes.

    Args:
        store: knows where the data lie, and how accurate networks are expected to be.
        run: the network.
        how: it is attacked.

    Returns:
        Images, and passes of an image on average, forward or back.
    """
    images = store.test_images(run)
    count = len(images) if how.samples is None else min(how.samples, len(images))
    return count, mean_passes(find_protocol(how.protocol), *store.scale.expected, images.num_classes)


def pass_seconds(run: StoredRun, store: Store, timed: dict[str, float]) -> float:
    """Return the seconds of a pass of an image, forward or back to it, through a new network of a run.

    Args:
        run: gives network and data.
        store: knows where the data lie.
        timed: what has been measured so far, by kind of network; another kind is added.

    Returns:
        Seconds.

    Raises:
        ClatError: If the network cannot be built or attacked.
    """
    kind = f"{run.recipe.model} {store.test_images(run).shape}"
    if kind not in timed:
        timed[kind] = _pass_seconds(run, store)
    return timed[kind]


def _pass_seconds(run: StoredRun, store: Store) -> float:
    model, batch = network_and_batch(store, run)
    model.eval().to(computing_device())
    for _ in range(2):  # the first is not counted
        cost = evaluate_set(model, batch, protocol="fgsm", eps=EPS, batch_size=len(batch)).cost
    return cost.seconds / (cost.forwards + cost.backwards)
