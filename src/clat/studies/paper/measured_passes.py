"""What rankings and transferred examples of a table take: an image's passes, times that of a pass measured here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clat.criticality.rankings import CriticalityRanking
from clat.models.settings import ModelConfig
from clat.studies.paper.accuracy import Request
from clat.studies.paper.attack_plan import images_and_passes, pass_seconds
from clat.studies.paper.cost_tables import BATCHES
from clat.studies.paper.layer_tables import FEW, MANY, ranking_of
from clat.studies.paper.lines import measure
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.scales import FULL, network
from clat.studies.paper.store import Store, StoredRun
from clat.studies.paper.transfer_tables import transfer_of

RANKED = 2 * CriticalityRanking().steps + 2
"""Passes of an image where C is measured: each step forward and back, then the features of both inputs."""


@dataclass(frozen=True)
class Passes:
    """Passes of images, forward or back to them, through the network of a run."""

    run: StoredRun
    count: float


def ranking_passes(request: Request) -> list[Passes]:
    """Return what the rankings of T8 and T10 take; those that the store has are left out.

    Args:
        request: what would be run.

    Returns:
        Passes of each network; none of other tables.
    """
    if request.table.id not in ("T8", "T10"):
        return []
    places = dict.fromkeys(
        (one.dataset, one.network) for one in request.lines if one.dataset not in request.missing
    )
    runs = [
        request.store.run_of(RunSpec(network=name, dataset=data, seed=request.seeds[0])) for data, name in places
    ]
    if request.table.id == "T8":
        return [one for run in runs for one in _critical_layers(request, run)]
    images = sum(BATCHES) + BATCHES[0]  # the smallest batch once before, which is not timed
    return [Passes(one, RANKED * images) for run in runs for one in (run, full_width(run))]


def _critical_layers(request: Request, run: StoredRun) -> Iterator[Passes]:
    for random, network_of in ((True, full_width(run)), (False, run)):
        if not request.store.has_kept("rankings", ranking_of(run, random=random)):
            yield Passes(network_of, RANKED * min(FEW if random else MANY, run.recipe.data.heldout))


def full_width(run: StoredRun) -> StoredRun:
    """Return a run whose network has the paper's width.

    Args:
        run: of any scale.

    Returns:
        The same, with its key, which is no longer that of its recipe.
    """
    model = ModelConfig(**network(run.spec.network, run.spec.dataset, FULL))
    return replace(run, recipe=replace(run.recipe, model=model))


def transfer_passes(request: Request) -> list[Passes]:
    """Return what the transferred examples of T3 and T4 take, at the ratio that the scale names first.

    Args:
        request: what would be run.

    Returns:
        Passes of each network, as attacker and as victim; none of other tables, nor of what the store has.
    """
    if request.table.kind != "transfer":
        return []
    store, found = request.store, list[Passes]()
    lines = [line for line in request.lines if line.dataset not in request.missing]
    for group in dict.fromkeys((line.dataset, line.method) for line in lines):
        alike = [line for line in lines if (line.dataset, line.method) == group]
        names = dict.fromkeys(name for line in alike for name in (line.network, line.source))
        how = measure(request.table, alike[0], request.lines[alike[0]][0].attack, store.scale)
        for seed in request.seeds:
            runs = {
                name: store.run_of(
                    replace(alike[0], network=name, source="").spec(request.table, seed, store.scale.ratios[0])
                )
                for name in names
            }
            if store.has_kept("transfers", transfer_of(runs, how, seed)):
                continue
            count, made = images_and_passes(store, runs[alike[0].network], how)
            found += [Passes(run, count * (made + len(runs))) for run in runs.values()]
    return found


def passes_seconds(passes: Sequence[Passes], store: Store, timed: dict[str, float]) -> float:
    """Return the time of passes.

    Args:
        passes: from `ranking_passes` or `transfer_passes`.
        store: knows where the data lie.
        timed: what `pass_seconds` has measured so far.

    Returns:
        Seconds.

    Raises:
        ClatError: If a network cannot be built or attacked.
    """
    return sum(one.count * pass_seconds(one.run, store, timed) for one in passes)
