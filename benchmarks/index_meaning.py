"""What the criticality index says: how stable it is, what inflates it, and whether it foretells what helps.

    python -m benchmarks.index_meaning --runs claim/runs/pgd-at@0 claim/runs/pgd-at@1 --alone alone --out FILE

`--runs`: runs of one recipe with several seeds, of which it takes the weights at the end of the first stage, the
best and the last ones; `--alone`: the folder of `clat study alone`, with all of these seeds or some, whose rows
have finished. Each number is a Spearman correlation between two rankings of the layers, or a mean of such over
pairs; layer 1, whose index is no ratio, is left out (see `clat.criticality`). Images are the runs' held-out
training images.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn

import clat
from clat.core.environment import describe_environment
from clat.core.files import claim_output, write_json
from clat.core.seeds import permutation
from clat.criticality.report import CriticalityReport
from clat.criticality.robust_criticality import measure_robust_criticality
from clat.data import ImageSet, Loader
from clat.data.splits import hold_out
from clat.evaluation.predict import predict
from clat.recipe.toml import read_recipe
from clat.report.plots import BLUE, MUTED, plot_format, save_figure, styled
from clat.report.widths import WIDTH
from clat.studies.row_words import finished
from clat.studies.tables.alone import LAYERS

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "sqrt": {"normaliser": "sqrt"},
    "relative": {"normaliser": "relative"},
    "paper, norm tap": {"tap": "norm"},
    "relative, norm tap": {"normaliser": "relative", "tap": "norm"},
    "curvature": {"metric": "curvature"},
    "curvature over N_i": {"metric": "curvature", "normaliser": "numel"},
}
"""The index as the paper has it, and with the settings that it leaves open."""

MOMENTS = {"end of stage 1": "stage-1", "best": "best", "end": "last"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", nargs="+", type=Path, required=True)
    options.add_argument("--alone", type=Path)
    options.add_argument("--other-data", default="cifar100", help="another data set whose images are shown")
    options.add_argument("--draws", type=int, default=10)
    options.add_argument("--out", required=True)
    options.add_argument(
        "--plot", help="an .svg or .png: the paper's index against what tuning the layer alone did"
    )
    chosen = options.parse_args()
    if chosen.plot is not None and (chosen.alone is None or not plot_format(chosen.plot)):
        options.error("--plot shows what tuning each layer alone did: it needs --alone")
    if chosen.alone is not None:
        refusal = alone_refusal(chosen.alone, [run.name for run in chosen.runs])
        if refusal:
            options.error(refusal)
    claim_output(chosen.out)
    images, other = heldout(chosen.runs[0]), clat.load_split(chosen.other_data, "test")
    nets = {run.name: {when: network(run, file) for when, file in MOMENTS.items()} for run in chosen.runs}
    first = next(iter(nets.values()))["end of stage 1"]
    result: dict[str, Any] = {
        "benchmark": "index_meaning",
        "command": vars(chosen) | {"runs": [str(run) for run in chosen.runs], "alone": str(chosen.alone)},
        "stability": {
            name: stability(nets, first, images, other, chosen.draws, settings)
            for name, settings in VARIANTS.items()
        },
        "inflation": inflation(first, images),
        "mrc": against_mrc(nets, images),
        "alone": None if chosen.alone is None else against_alone(chosen.alone, nets, images),
        "environment": describe_environment("cpu"),
    }
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=1))
    write_json(chosen.out, result)
    if chosen.plot is not None:
        save_figure(scatter(result), Path(chosen.plot))


@styled()
def scatter(result: dict[str, Any]) -> Figure:
    """A dot a layer, by its number: the paper's index, and the accuracies after tuning that layer by itself, both
    means over the seeds."""
    alone = result["alone"]
    indices = alone["paper's index"]  # of the second layer and on
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), ("clean", "robust"), strict=True):
        for number, x in enumerate(indices, start=2):
            accuracies = [100 * value for value in alone["by layer"][number][kind]]
            y = fmean(accuracies)
            axes.plot(x, y, "o", color=BLUE, markersize=4)
            axes.annotate(str(number), (x, y), xytext=(3, 2), textcoords="offset points", fontsize=6.5)
        axes.axhline(100 * fmean(alone["all layers"][kind]), color=MUTED, linewidth=0.8, linestyle="--")
        rho = alone[f"spearman with {kind} accuracy"]["paper"]["of the means"]
        axes.set_title(f"{kind}: Spearman {rho:+.2f}")
        axes.set_xlabel("criticality index C (paper)")
        axes.set_ylabel("held-out accuracy in %")
    return figure


def network(run: Path, weights: str) -> nn.Module:
    """The run's network with the weights of the file called so, in evaluation mode."""
    recipe = read_recipe(run / "recipe.toml")
    settings = {key: getattr(recipe.model, key) for key in ("width", "normalize")}
    file = run / "weights" / f"{weights}.safetensors"
    return clat.load_model(recipe.model.name, weights=file, num_classes=10, **settings).eval()


def heldout(run: Path) -> ImageSet:
    """The training images that the run's recipe holds out."""
    data = read_recipe(run / "recipe.toml").data
    return hold_out(clat.load_split(data.name, "train"), data.heldout, data.split_seed, data.train_size)[1]


def index(
    model: nn.Module, images: ImageSet, count: int, draw: int, *, guess: bool = False, **settings: Any
) -> CriticalityReport:
    """Of `count` images, drawn anew for each `draw`. `guess`: the network's own labels, where the images' mean
    nothing to it."""
    x, y = drawn(images, count, draw)
    labels = own_labels(model, x) if guess else y
    return clat.measure_criticality(model, x, labels, eps="8/255", **settings)


def drawn(images: ImageSet, count: int, draw: int) -> tuple[Tensor, Tensor]:
    part = images.subset(permutation(len(images), "draw", draw)[:count])
    return next(iter(Loader(part, count, device="cpu").epoch()))


def own_labels(model: nn.Module, x: Tensor) -> Tensor:
    return predict(model, x, torch.zeros(len(x), dtype=torch.long)).argmax(1)


def stability(
    nets: dict[str, dict[str, nn.Module]],
    first: nn.Module,
    images: ImageSet,
    other: ImageSet,
    draws: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """How far two measurements agree that differ in one thing."""
    hundred = [index(first, images, 100, draw, **settings) for draw in range(draws)]
    ten = [index(first, images, 10, draw, **settings) for draw in range(draws)]
    foreign = [index(first, other, 100, draw, guess=True, **settings) for draw in range(draws)]
    moments = {when: [index(net[when], images, 100, 0, **settings) for net in nets.values()] for when in MOMENTS}
    seeds = moments["end of stage 1"]
    return {
        "batches of 100": agreement(combinations(hundred, 2)),
        "batches of 10 with those of 100": agreement((one, two) for one in ten for two in hundred),
        "images of the other data set": agreement(zip(hundred, foreign, strict=True)),
        "seeds": agreement(combinations(seeds, 2)),
        "best weights with those at the end of stage 1": agreement(zip(moments["best"], seeds, strict=True)),
        "last weights with those at the end of stage 1": agreement(zip(moments["end"], seeds, strict=True)),
        "most critical, by seed": [report.top(5) for report in seeds],
    }


def agreement(pairs: Iterable[tuple[CriticalityReport, CriticalityReport]]) -> dict[str, float]:
    pairs = list(pairs)
    rhos = [correlation(values(one), values(two)) for one, two in pairs]
    shared = [len(set(one.top(5)) & set(two.top(5))) for one, two in pairs]
    return {
        "spearman": round(sum(rhos) / len(rhos), 3),
        "lowest": round(min(rhos), 3),
        "shared of top 5": round(sum(shared) / len(shared), 2),
    }


def values(report: CriticalityReport) -> list[float]:
    return [row.criticality for row in report.rows[1:]]


def correlation(one: Sequence[float], two: Sequence[float]) -> float:
    return float(spearmanr(one, two).statistic)


def inflation(model: nn.Module, images: ImageSet) -> dict[str, Any]:
    """How much of the paper's ranking is sqrt(N_{i-1} / N_i), the change of the features' size."""
    report = index(model, images, 100, 0)
    even = index(model, images, 100, 0, normaliser="sqrt")
    sizes = [math.prod(row.feature_shape) for row in report.rows]
    factors = [math.sqrt(before / here) for before, here in pairwise(sizes)]
    return {
        "spearman of the paper's index with the factor": round(correlation(values(report), factors), 3),
        "spearman of the sqrt index with the factor": round(correlation(values(even), factors), 3),
        "spearman of the two indices": round(correlation(values(report), values(even)), 3),
        "layers": [
            {
                "layer": row.name,
                "factor": round(factor, 3),
                "paper": round(row.criticality, 4),
                "sqrt": round(other.criticality, 4),
            }
            for row, other, factor in zip(report.rows[1:], even.rows[1:], factors, strict=True)
        ],
    }


def against_mrc(nets: dict[str, dict[str, nn.Module]], images: ImageSet) -> dict[str, Any]:
    """With RiFT's module robust criticality on the same 100 images, by seed."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for net in nets.values():
        model = net["end of stage 1"]
        x, y = drawn(images, 100, 0)
        mrc = {row.name: row.value for row in measure_robust_criticality(model, x, y, eps="8/255").rows}
        for name, settings in VARIANTS.items():
            report = index(model, images, 100, 0, **settings)
            rho = correlation(values(report), [mrc[row.name] for row in report.rows[1:]])
            found[name].append(round(rho, 3))
    return found


def against_alone(folder: Path, nets: dict[str, dict[str, nn.Module]], images: ImageSet) -> dict[str, Any]:
    """With the held-out accuracies after tuning each layer by itself: seed by seed, and of the means over the
    seeds, which hold less noise."""
    by_seed = {seed_of(name): net["end of stage 1"] for name, net in nets.items()}
    seeds = alone_seeds(folder, nets)
    numbers = range(2, LAYERS + 1)
    by_layer = {number: checks(folder, f"layer-{number}", seeds) for number in range(1, LAYERS + 1)}
    rankings = [alone_rankings(by_seed[seed], images) for seed in seeds]
    found: dict[str, Any] = {"seeds": seeds, "by layer": by_layer, "all layers": checks(folder, "whole", seeds)}
    found["paper's index"] = [fmean(of_seeds) for of_seeds in zip(*(one["paper"] for one in rankings), strict=True)]
    for kind in ("robust", "clean"):
        found[f"spearman with {kind} accuracy"] = {
            name: {
                "by seed": [
                    round(correlation(one[name], [by_layer[number][kind][place] for number in numbers]), 3)
                    for place, one in enumerate(rankings)
                ],
                "of the means": round(
                    correlation(
                        mean_ranks([one[name] for one in rankings]),
                        [fmean(by_layer[number][kind]) for number in numbers],
                    ),
                    3,
                ),
            }
            for name in rankings[0]
        }
    return found


def alone_rankings(model: nn.Module, images: ImageSet) -> dict[str, list[float]]:
    """Each ranking of a network's layers, the second and on, on the same 100 images."""
    x, y = drawn(images, 100, 0)
    found = {name: values(index(model, images, 100, 0, **settings)) for name, settings in VARIANTS.items()}
    by_name = {row.name: row for row in measure_robust_criticality(model, x, y, eps="8/255").rows}
    names = [row.name for row in index(model, images, 100, 0).rows[1:]]
    found["mrc"] = [by_name[name].value for name in names]
    found["weights of the layer"] = [float(by_name[name].num_params) for name in names]
    found["depth"] = [float(place) for place in range(len(names))]
    found["spectral norm"] = [spectral_norm(model, name) for name in names]
    found["spectral norm x criticality"] = [
        norm * index for norm, index in zip(found["spectral norm"], found["paper"], strict=True)
    ]
    return found


def spectral_norm(model: nn.Module, layer: str) -> float:
    """The largest singular value of a layer's weight as a matrix, a row an output channel."""
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))


def mean_ranks(rankings: Sequence[Sequence[float]]) -> list[float]:
    """Over the seeds, of each layer."""
    return [fmean(ranks) for ranks in zip(*(rankdata(one) for one in rankings), strict=True)]


def alone_refusal(folder: Path, names: Iterable[str]) -> str:
    """Why nothing can be said of layers tuned alone beside these runs: the rows that have not finished. Empty: it
    can."""
    seeds = alone_seeds(folder, names)
    if not seeds:
        return f"{folder} has no row whole@SEED with a seed of --runs"
    rows = [f"{row}@{seed}" for seed in seeds for row in ("whole", *(f"layer-{n}" for n in range(1, LAYERS + 1)))]
    missing = [row for row in rows if not finished(folder / "runs" / row)]
    return f"{folder}: not finished: {', '.join(missing)}: go on with `clat study alone`" if missing else ""


def alone_seeds(folder: Path, names: Iterable[str]) -> list[str]:
    """The seeds of runs of these names that the folder of `clat study alone` has, too."""
    return [seed for seed in map(seed_of, names) if (folder / "runs" / f"whole@{seed}").exists()]


def seed_of(name: str) -> str:
    return name.partition("@")[2]


def checks(folder: Path, row: str, seeds: Sequence[str]) -> dict[str, list[float]]:
    """The last held-out accuracies of a row's runs, by seed."""
    found = [last_check(folder / "runs" / f"{row}@{seed}") for seed in seeds]
    return {kind: [one[kind] for one in found] for kind in ("clean", "robust")}


def last_check(run: Path) -> dict[str, float]:
    """The last held-out accuracies of a finished run, as its summary has them: its events are in part those of the
    run whose first stage it took over."""
    last = json.loads((run / "summary.json").read_text())["last"]
    return {"clean": last["heldout_clean"], "robust": last["heldout_robust"]}


if __name__ == "__main__":
    main()
