"""Tables of layers: the most critical (T8), those selected in turn (T13), and how much they weigh (T9)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.bench.repeated_step import with_statistics
from clat.core.errors import ClatError
from clat.core.formatting import DASH, count, counted
from clat.core.random_states import preserve_all_states
from clat.criticality.rankings import CriticalityRanking
from clat.criticality.report import CriticalityReport
from clat.data import Loader, hold_out
from clat.models import build_model
from clat.models.settings import ModelConfig
from clat.network.layers import enumerate_layers
from clat.studies.measurement import computing_device
from clat.studies.paper.accuracy import Request, line_runs, ratios, told
from clat.studies.paper.content import Content
from clat.studies.paper.lines import TableLine
from clat.studies.paper.methods import ALPHA, EPS
from clat.studies.paper.printed import printed_in
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.scales import FULL, K, network
from clat.studies.paper.store import StoredRun
from clat.training.prepare import read_split

TOP = 5
FEW = 10
"""Images on which layers of a network of full width are ranked: the paper's least."""
MANY = 100
"""Images on which layers of a trained network are ranked."""


def top_layers(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, top: int = TOP) -> list[int]:
    """Return the numbers of the most critical layers.

    Args:
        model: the network.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        seed: of the attack.
        top: how many.

    Returns:
        Numbers from 1 in forward order, the most critical first.
    """
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    layers = enumerate_layers(model, x[:1])
    ranking = CriticalityRanking(alpha=ALPHA)
    names = ranking.measure(model, x, y, layers=layers, eps=EPS, seed=seed).top(min(top, len(layers)))
    numbers = {layer.name: layer.index for layer in layers}
    return [numbers[name] for name in names]


def heldout_batch(request: Request, run: StoredRun, images: int) -> tuple[Tensor, Tensor]:
    """Return the first held-out images of a run's data.

    Args:
        request: has the store.
        run: the run, whose recipe says what is held out.
        images: how many.

    Returns:
        Images (N, C, H, W) in [0, 1], labels (N,).
    """
    config = run.recipe.data
    held = hold_out(read_split(config, "train"), config.heldout, config.split_seed, config.train_size)[1]
    chosen = held.take(min(images, len(held)))
    x, y = next(iter(Loader(chosen, len(chosen), device="cpu").epoch()))
    return x, y


def full_network(name: str, dataset: str, classes: int, x: Tensor, seed: int = 0) -> nn.Module:
    """Return the paper's network at full width, with random weights and BatchNorm statistics of a batch.

    Args:
        name: the paper's network.
        dataset: by whose statistics it normalises.
        classes: of that data set.
        x: the batch.
        seed: of the weights.

    Returns:
        The network in evaluation mode.
    """
    with preserve_all_states():
        torch.manual_seed(seed)
        model = build_model(ModelConfig(**network(name, dataset, FULL)), classes, x.shape[1])
    return with_statistics(model, x).eval().to(computing_device())


COLUMNS = ("data", "network", "weights", "ours: top 5", "paper: top 5", "in both")


def critical_layers(request: Request) -> Content:
    """Return T8: the most critical layers, of random weights at full width and of what PGD-AT leaves at the scale.

    Args:
        request: what is run.

    Returns:
        The table, two rows a line.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    entries: list[dict[str, Any]] = []
    for line, printed in request.lines.items():
        paper = printed[0].layer_list
        for weights in ("random, full width", f"PGD-AT, {request.store.scale.name}"):
            entry: dict[str, Any] = {"dataset": line.dataset, "network": line.network, "weights": weights}
            try:
                found, about = _ranked(request, line, weights.startswith("random"))
                entry |= {"layers": found, **about, "failure": None}
            except ClatError as error:
                entry |= {"layers": None, "failure": str(error)}
            entries.append({**entry, "paper": list(paper), "flag": printed[0].flag})
        request.console.print(f"{request.table.id}: {line.dataset}, {line.network}: ranked")
    return Content(
        columns=COLUMNS,
        seeds=request.seeds[:1],
        rows=[_texts(entry) for entry in entries],
        entries=entries,
        caption=f"Layers are convolutions without shortcuts and classifier, numbered from 1 in forward order; "
        f"ranked by C at eps {EPS}, ten steps of {ALPHA}, on held-out training images: {FEW} at full width, {MANY} "
        "of trained networks. Random weights have BatchNorm statistics of the batch. Where a scale's network has "
        "fewer layers than the paper's, numbers do not compare.",
        failed=sum(entry["layers"] is None for entry in entries),
    )


def ranking_of(run: StoredRun, *, random: bool) -> dict[str, Any]:
    """Return what decides a ranking of T8, by which the store knows it.

    Args:
        run: the network, or the one whose data and seed random weights take.
        random: whether random weights at full width are ranked.

    Returns:
        Plain data.
    """
    weights, images = ("random", FEW) if random else ("stage-1", MANY)
    return {"run": run.key, "weights": weights, "images": images, "eps": EPS, "alpha": ALPHA, "top": TOP}


def _ranked(request: Request, line: TableLine, random: bool) -> tuple[list[int], dict[str, Any]]:
    """Return the most critical layers of random weights or of what PGD-AT leaves, ranked once a store."""
    if line.dataset in request.missing:
        raise ClatError(request.missing[line.dataset])
    seed, store = request.seeds[0], request.store
    run = store.run_of(RunSpec(network=line.network, dataset=line.dataset, seed=seed))
    failure = None if random else store.train(run, request.console)
    if failure:
        raise ClatError(failure)
    about = ranking_of(run, random=random)

    def rank() -> dict[str, Any]:
        x, y = heldout_batch(request, run, about["images"])
        if random:
            model = full_network(line.network, line.dataset, store.test_images(run).num_classes, x, seed)
        else:
            model = store.network(run, about["weights"])
        return {"layers": top_layers(model, x, y, seed=seed), "measured": len(x)}

    held = store.kept("rankings", about, rank, [] if random else [run], about["weights"])
    return held["layers"], {"images": held["measured"], **({} if random else {"run": run.key})}


def _texts(entry: Mapping[str, Any]) -> list[str]:
    paper = " ".join(map(str, entry["paper"])) + (f" ({entry['flag']})" if entry["flag"] else "")
    about = [entry["dataset"], entry["network"], entry["weights"]]
    if entry["layers"] is None:
        why = f"failed: {entry['failure']}" if entry["failure"] else entry["absent"]
        return [*about, why, paper, DASH]
    both = len(set(entry["layers"]) & set(entry["paper"]))
    return [*about, " ".join(map(str, entry["layers"])), paper, f"{both} of {len(entry['paper'])}"]


def selected_layers(request: Request) -> Content:
    """Return T13: the layers that CLAT selects, one selection after the other.

    Args:
        request: what is run.

    Returns:
        The table, a row a selection.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    chosen = ratios(request)
    entries: list[dict[str, Any]] = []
    for line, printed in request.lines.items():
        number = (int(line.variant.partition("=")[2]) - 70) // 10
        entry: dict[str, Any] = {
            "dataset": line.dataset,
            "network": line.network,
            "weights": f"selection {number + 1}",
        }
        entry |= {"paper": list(printed[0].layer_list), "flag": printed[0].flag, "layers": None}
        runs = line_runs(request, line, chosen)
        failure = runs if isinstance(runs, str) else request.store.train(runs[0], request.console)
        if failure is None and not isinstance(runs, str):
            selections = [one for one in request.store.records(runs[0]) if one["event"] == "selection"]
            if number < len(selections):
                found = selections[number]
                folder = request.store.folder / "runs" / runs[0].key
                if (folder / found["report"]).exists():
                    entry |= {"layers": in_order(folder, found), "epoch": found["epoch"], "run": runs[0].key}
                else:
                    failure = f"its rankings are not in the store: {found['report']} of {runs[0].key}"
            else:
                entry["absent"] = f"not at this scale, whose stage selects {counted(len(selections), 'time')}"
        entries.append({**entry, "failure": failure})
    return Content(
        columns=("data", "network", "weights", "ours", "paper", "in both"),
        rows=[_texts(entry) for entry in entries],
        entries=entries,
        caption="The k layers that the stage of CLAT selects, the most critical first, at its first, second and "
        f"third selection: the paper's epochs 70, 80 and 90. X's part is {_part(request)}.",
        about={"ratios": told(chosen)},
        seeds=request.seeds[:1],
        failed=sum(entry["failure"] is not None for entry in entries),
    )


def _part(request: Request) -> str:
    """Return X's part of the epochs, as at this scale."""
    scale = request.store.scale
    return f"{scale.start(request.table.share)} of {scale.epochs} epochs"


def in_order(folder: Path, selection: Mapping[str, Any]) -> list[int]:
    """Return a selection's layers by falling criticality, which its report has; the record has them forward.

    Args:
        folder: the run's.
        selection: the record, with the names and numbers of the layers and the report's place in the folder.

    Returns:
        The numbers of the layers.
    """
    order = [row.name for row in CriticalityReport.from_json(folder / selection["report"]).ranked()]
    pairs = zip(selection["layers"], selection["indices"], strict=True)
    return [index for _, index in sorted(pairs, key=lambda pair: order.index(pair[0]))]


def parameters(request: Request) -> Content:
    """Return T9: the parameters of each network, and those of the layers that the paper says it moves.

    Args:
        request: what is run; nothing is trained.

    Returns:
        The table, a row a printed number.
    """
    entries = []
    for line, printed in request.lines.items():
        counted = _counted(line.network)
        for one in printed:
            whole = line.method == "full-model"
            ours = counted["all"] if whole else counted["moved"]
            value = 100 * ours / counted["all"] if one.metric == "trainable_fraction" else ours
            entries.append(
                {
                    "network": line.network,
                    "what": "all" if whole else f"layers {' '.join(map(str, counted['layers']))}",
                    "metric": "share" if one.metric == "trainable_fraction" else "parameters",
                    "ours": value,
                    "paper": one.number,
                    "flag": one.flag,
                    "note": one.note,
                }
            )
    return Content(
        columns=("network", "of", "measured", "ours", "paper", "ours / paper"),
        rows=[_parameter_texts(entry) for entry in entries],
        entries=entries,
        caption="Full width, ten classes. Layers: as many as CLAT moves, from the head of the paper's Table 8 for "
        "CIFAR-10; their convolution weights alone.",
        notes=[(f"{entry['network']}, {entry['metric']}", entry["note"]) for entry in entries if entry["note"]],
    )


def _counted(name: str) -> dict[str, Any]:
    """Return all parameters of a network, and those of the paper's first k layers of its Table 8."""
    with torch.device("meta"):
        model = build_model(ModelConfig(**network(name, "cifar10", FULL)), 10, 3)
    shape = torch.zeros(1, 3, 32, 32, device="meta")
    layers = {layer.index: layer for layer in enumerate_layers(model, shape)}
    rows = printed_in("clat-v2", "T8")
    listed = next(one.layer_list for one in rows if (one.network, one.dataset) == (name, "cifar10"))[: K[name]]
    weights = [model.get_parameter(f"{layers[index].name}.weight") for index in listed]
    moved = sum(weight.numel() for weight in weights)
    return {"all": sum(p.numel() for p in model.parameters()), "moved": moved, "layers": list(listed)}


def _parameter_texts(entry: Mapping[str, Any]) -> list[str]:
    share = entry["metric"] == "share"
    show = (lambda value: f"{value:.2f} %") if share else count
    paper = show(entry["paper"]) + (f" ({entry['flag']})" if entry["flag"] else "")
    about = [entry["network"], entry["what"], entry["metric"]]
    return [*about, show(entry["ours"]), paper, f"{entry['ours'] / entry['paper']:.2f}"]
