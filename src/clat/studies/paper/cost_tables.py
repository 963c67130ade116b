"""Tables of seconds: the selection's by its batch (T10), an epoch's by the method (D.9)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from clat.bench.timing import ratio
from clat.core.errors import ClatError
from clat.core.formatting import DASH
from clat.recipe.schema import StageConfig
from clat.studies.paper.accuracy import Request
from clat.studies.paper.content import Content
from clat.studies.paper.layer_tables import full_network, heldout_batch, top_layers
from clat.studies.paper.lines import TableLine
from clat.studies.paper.printed import Printed, printed_in
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.step_cost import ROUNDS, clock, step_times

BATCHES = (10, 30, 50, 100)


def selection_cost(request: Request) -> Content:
    """Return T10: seconds of a selection and the five most critical layers, by the number of images.

    Args:
        request: what is run.

    Returns:
        The table: a row a batch size, of random weights at full width and of what PGD-AT leaves at the scale.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    entries: list[dict[str, Any]] = []
    places = dict.fromkeys((line.dataset, line.network) for line in request.lines)
    for dataset, network in places:
        for weights in ("random, full width", f"PGD-AT, {request.store.scale.name}"):
            try:
                found = _timed(request, dataset, network, random=weights.startswith("random"))
            except ClatError as error:
                found = [{"images": size, "failure": str(error)} for size in BATCHES]
            entries += [{"dataset": dataset, "network": network, "weights": weights, **one} for one in found]
    shown = [_with_paper(entry, request.lines) for entry in entries]
    return Content(
        columns=("data", "network", "weights", "images", "ours: s", "to 10 images", "paper: s", "ours", "paper"),
        rows=[_selection_texts(entry) for entry in shown],
        entries=shown,
        caption="Seconds of one measurement of C: ten steps of PGD and two passes, on one machine; the paper's on "
        "a TITAN RTX. The layers are the five most critical ones. At smoke scale networks have fewer layers than "
        "the paper's, so that their numbers do not compare.",
        failed=sum("failure" in entry for entry in shown),
        seeds=request.seeds[:1],
    )


def _timed(request: Request, dataset: str, network: str, *, random: bool) -> list[dict[str, Any]]:
    if dataset in request.missing:
        raise ClatError(request.missing[dataset])
    seed = request.seeds[0]
    run = request.store.run_of(RunSpec(network=network, dataset=dataset, seed=seed))
    x, y = heldout_batch(request, run, max(BATCHES))
    if random:
        model = full_network(network, dataset, request.store.test_images(run).num_classes, x[:10], seed)
    else:
        failure = request.store.train(run, request.console)
        if failure:
            raise ClatError(failure)
        model = request.store.network(run, "stage-1")
    top_layers(model, x[: BATCHES[0]], y[: BATCHES[0]], seed=seed)  # the first passes of a process take longer
    found: list[dict[str, Any]] = []
    for size in BATCHES:
        start = time.perf_counter()
        layers = top_layers(model, x[:size], y[:size], seed=seed)
        found.append({"images": size, "seconds": time.perf_counter() - start, "layers": layers})
    for one in found:
        one["to_ten"] = one["seconds"] / found[0]["seconds"]
    return found


def _with_paper(entry: Mapping[str, Any], lines: Mapping[TableLine, Any]) -> dict[str, Any]:
    """Return the entry with what the paper prints for its batch size."""
    variant = f"batch_size={entry['images']}"
    printed: list[Printed] = [
        one
        for line, numbers in lines.items()
        if (line.dataset, line.network, line.variant) == (entry["dataset"], entry["network"], variant)
        for one in numbers
    ]
    seconds = next((one.number for one in printed if one.metric == "seconds"), None)
    listed = next((list(one.layer_list) for one in printed if one.layer_list), None)
    return {**entry, "paper_seconds": seconds, "paper_layers": listed}


def _selection_texts(entry: Mapping[str, Any]) -> list[str]:
    paper = DASH if entry["paper_seconds"] is None else f"{entry['paper_seconds']:.2f}"
    listed = DASH if entry["paper_layers"] is None else " ".join(map(str, entry["paper_layers"]))
    about = [entry["dataset"], entry["network"], entry["weights"], str(entry["images"])]
    if "failure" in entry:
        return [*about, f"failed: {entry['failure']}", DASH, paper, DASH, listed]
    ours = " ".join(map(str, entry["layers"]))
    return [*about, f"{entry['seconds']:.2f}", f"{entry['to_ten']:.2f}", paper, ours, listed]


STAGES = {"pgd-at": 0, "pgd-at+clat": -1, "pgd-at+rift": -1, "autolora": 1}
"""The paper's method -> which of its stages is timed."""


def epoch_cost(request: Request) -> Content:
    """Return D.9: what an epoch of each method takes, as a ratio to PGD-AT's.

    Args:
        request: what is run; nothing is trained.

    Returns:
        The table: a row a printed number.
    """
    network = next(iter(request.lines)).network
    dataset = next(iter(request.lines)).dataset
    stages: dict[str, StageConfig] = {}
    run = request.store.run_of(RunSpec(network=network, dataset=dataset, seed=request.seeds[0]))
    for method, which in STAGES.items():
        base, _, follower = method.partition("+")
        spec = RunSpec(base=base, follower=follower, network=network, dataset=dataset, seed=request.seeds[0])
        stages[method] = request.store.run_of(spec).recipe.stages[which]
    times = step_times(request.store, run, stages)
    to_pgd_at = {method: ratio(one, times["pgd-at"], clock()) for method, one in times.items()}
    printed = {(one.method, one.metric): one for one in printed_in(request.table.paper, request.table.number)}
    first = printed["pgd-at", "epoch_seconds"].number or 1.0
    entries: list[dict[str, Any]] = []
    for (method, metric), one in printed.items():
        if TableLine(dataset=dataset, network=one.network, method=method) not in request.lines:
            continue
        if metric == "epoch_seconds":
            ours = to_pgd_at[method]
            what = "an epoch"
        else:
            at, later = (110, 10) if method.endswith("rift") else (70, 30)
            ours = at + later * to_pgd_at[method]
            what = f"the whole training, {at} + {later} epochs"
        entries.append(
            {
                "method": method,
                "what": what,
                "ours": ours,
                "paper": (one.number or 0.0) / first,
                "step_seconds": times[method].seconds,
                "paper_seconds": one.number,
                "note": one.note,
            }
        )
    return Content(
        columns=("method", "time of", "ours: s a step", "ours / PGD-AT epoch", "paper / PGD-AT epoch", "paper: s"),
        rows=[
            [
                entry["method"],
                entry["what"],
                f"{entry['step_seconds']:.3f}",
                f"{entry['ours']:.2f}",
                f"{entry['paper']:.2f}",
                f"{entry['paper_seconds']:.0f}",
            ]
            for entry in entries
        ],
        entries=entries,
        caption=f"A training step of {run.recipe.batch_size} images on the scale's network, selections aside, "
        f"in units of PGD-AT's: the median of {ROUNDS} rounds in which the methods take turns; on a CPU by its "
        "own seconds.",
        notes=[(entry["method"], entry["note"]) for entry in entries if entry["note"]],
        seeds=request.seeds[:1],
    )
