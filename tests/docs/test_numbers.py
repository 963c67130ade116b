"""What README and the pages of results say of runs stands in the files of those runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from helpers.results import RESULTS, page_text, read, signed

NETWORKS = ("resnet18", "resnet18-width32", "resnet18-width16")
LOSING, FEW, MANY = "clat-from-75%", "claim/cosine/cw-pgd-20", "claim/fifth/cw-pgd-20"
STRONGEST = "clat-both-all-ratio-1.0-from-75%"


def steps(row: str, what: str, digits: int) -> str:
    """The range of a ratio over the sizes of ResNet-18."""
    found = [read(f"benchmarks/speed_{name}")["rows"][row][what] for name in NETWORKS]
    return f"{min(found):.{digits}f} to {max(found):.{digits}f}"


def difference(file: str, row: str, kind: str) -> dict[str, Any]:
    groups = {(group["name"], group["weights"]): group for group in read(file)["groups"]}
    found: dict[str, Any] = groups[row, "last"][f"{kind}_less_control"]
    return found


def interval(file: str, row: str, kind: str) -> str:
    found = difference(file, row, kind)
    return f"[{signed(found['low'])}, {signed(found['high'])}]"


def size(file: str, row: str, kind: str) -> str:
    """How large a difference is; whether it is a gain is for the sentence to say."""
    return f"{abs(100 * difference(file, row, kind)['value']):.1f}"


def accuracies(run: str, label: str) -> str:
    found = read(f"cifar10-narrow/{run}/evaluations/{label}")
    return " | ".join(
        f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
        for one in (found["clean_accuracy"], found["robust_accuracy"])
    )


def agreeing() -> str:
    found = read("benchmarks/criticality_batch")
    share = found["share of draws with at least 3 of 5 in common"]
    return f"{share['correct']} of {share['n']} draws, {found['mean in common']:.1f} of 5 on average"


def autoattack(*names: str) -> list[float]:
    """Our seconds over the official code's."""
    found = [read(f"benchmarks/autoattack_{name}")["results"]["autoattack"] for name in names]
    return sorted(one["float32"]["seconds"] / one["official"]["seconds"] for one in found)


def wrapping(name: str) -> str:
    """A row's numbers: by name over by hand, and by hand again over by hand."""
    found = read("benchmarks/wrapping")["networks"][name]
    pairs = (found["named / by hand"], found["by hand again / by hand"])
    return " | ".join(f"{one['median']:.3f} ({one['fastest']:.3f})" for one in pairs)


def briefly_waiting() -> str:
    """Steps by clat's setting over those by libgomp's, of a narrower and a wider network."""
    small, wide = (one["steps_a_second"] for one in read("benchmarks/openmp_wait"))
    lost = [1 - one["clat's, alone"] / one["libgomp's, alone"] for one in (small, wide)]
    gained = [
        one["clat's, beside another process"] / one["libgomp's, beside another process"] for one in (small, wide)
    ]
    assert lost[1] < 0.005, "nothing"
    assert all(
        one["one thread, beside another process"] > one["clat's, beside another process"] for one in (small, wide)
    )
    return (
        f"cost {100 * lost[0]:.0f} % (a ResNet-18 of width 8 on images of 8 pixels) and nothing (width 16, 32 "
        f"pixels). Beside one other busy process, two threads took {gained[0]:.0f} and {gained[1]:.0f} times as "
        "many steps"
    )


def shared_layers() -> str:
    """Of the paper's five most critical layers, how many are ours of random weights."""
    rows = [one for one in read("paper/T8/table")["entries"] if one["weights"] == "random, full width"]
    shared = [len(set(one["layers"]) & set(one["paper"])) for one in rows]
    return f"share {min(shared)} to {max(shared)} with the paper's lists, {sum(shared) / len(rows):.1f} on average"


def curvature_row(name: str, row: str) -> str:
    """A line of the table of rankings on the third set of starts."""
    (group,) = [one for one in read("claim/narrow-3/table")["groups"] if one["name"] == row]
    found = [group[f"{kind}_less_control"] for kind in ("clean", "robust")]
    both = " | ".join(f"{signed(one['value'])} [{signed(one['low'])}, {signed(one['high'])}]" for one in found)
    return f"{name} (`{row}`) | {len(group['seeds'])} | {both}"


RANKINGS = {
    "paper": ("paper's index", "paper"),
    "sqrt": ("`sqrt`", "sqrt"),
    "curvature": ("curvature", None),
    "curvature over N_i": ("curvature over N_i", "curvature"),
    "paper, norm tap": ("paper, norm tap", "paper, norm tap"),
    "relative": ("`relative`", "relative"),
    "relative, norm tap": ("`relative`, norm tap (`clat-plus`)", "relative, norm tap"),
    "mrc": ("RiFT's module robust criticality", "mrc"),
    "weights of the layer": ("number of weights", "weights of the layer"),
    "depth": ("depth", None),
    "spectral norm": ("spectral norm", None),
    "spectral norm x criticality": ("spectral norm times the paper's index", None),
}
"""A ranking -> what the page calls it, and its name when it was measured first."""
INDEX = tuple(RANKINGS)[:7]


def rhos(time: int, kind: str) -> dict[str, Any]:
    """Each ranking's correlations with the accuracies after tuning a layer alone."""
    file = ("layers/index_meaning", "layers/second/index_meaning")[time]
    found: dict[str, Any] = read(file)["alone"][f"spearman with {kind} accuracy"]
    return found


def ranking_row(name: str) -> str:
    shown, first = RANKINGS[name]
    cells = []
    for kind in ("clean", "robust"):
        for time, called in enumerate((first, name)):
            one = None if called is None else rhos(time, kind)[called]
            numbers = [] if one is None else [*one["by seed"], one["of the means"]]
            texts = [f"{round(value, 2) + 0.0:+.2f}".replace("+0.00", "0.00") for value in numbers]
            cells.append(f"{', '.join(texts[:-1])}; {texts[-1]}" if texts else "–")
    return f"| {shown} | {' | '.join(cells)} |"


def of_networks(kind: str, names: Iterable[str], times: Iterable[int] = (0, 1)) -> list[float]:
    found = []
    for time in times:
        for name in names:
            called = name if time else RANKINGS[name][1]
            found += [] if called is None else rhos(time, kind)[called]["by seed"]
    return found


def what_the_index_foretells() -> str:
    for name in INDEX:
        values = of_networks("robust", [name])
        assert min(values) < 0 < max(values), f"{name} has one sign"
    clean, robust = (of_networks(kind, INDEX) for kind in ("clean", "robust"))
    return (
        f"is never above {max(robust):.2f}; with the clean accuracy it lies between {min(clean):.2f} and "
        f"{max(clean):+.2f}"
    )


def what_the_weights_foretell() -> str:
    weights, rift = (of_networks("clean", [name]) for name in ("weights of the layer", "mrc"))
    return (
        f"in all six networks ({min(weights):.2f} to {max(weights):.2f}); so does RiFT's criticality "
        f"({min(rift):.2f} to {max(rift):.2f})"
    )


def what_robust_accuracy_followed() -> str:
    both = ("weights of the layer", "mrc")
    first, second = (of_networks("robust", both, [time]) for time in (0, 1))
    for name in both:
        assert min(of_networks("robust", [name])) < 0
    return (
        f"the second time ({min(second):.2f} to {max(second):.2f}), and did not the first "
        f"({min(first):.2f} to {max(first):+.2f})"
    )


def a_layer_alone() -> str:
    """What tuning one layer gives up and gains against tuning all, of both times."""
    times = [
        {group["name"]: group for group in read(file)["groups"]} for file in ("layers/alone", "layers/second/alone")
    ]
    lost = [
        sorted(-group["clean_less_control"]["value"] for name, group in one.items() if name != "whole")
        for one in times
    ]
    gained = [
        max(group["robust_less_control"]["value"] for name, group in one.items() if name != "whole")
        for one in times
    ]
    sixteen = [one["layer-16"]["robust_less_control"] for one in times]
    second, first = (
        f"{signed(one['value'])} [{signed(one['low'])}, {signed(one['high'])}]" for one in sixteen[::-1]
    )
    ranges = [f"{100 * one[0]:.1f} to {100 * one[-1]:.1f}" for one in lost]
    return (
        f"{ranges[0]} points the first time and {ranges[1]} the second, and gains at most {100 * gained[0]:.1f} "
        f"robust and {100 * gained[1]:.1f}: layer 16, {second} the second time and {first} the first"
    )


def images_of_a_selection() -> str:
    rows = [one for one in read("paper/T10/table")["entries"] if one["weights"] == "random, full width"]
    assert len({tuple(one["layers"]) for one in rows}) == 1, "not the same layers from all numbers of images"
    times = sorted(one["to_ten"] for one in rows if one["images"] == 100)
    return "a hundred images take {:.0f} and {:.0f} times as long as ten".format(*times)


def two_processes() -> str:
    names = ("two_processes", "two_processes_2", "two_processes_3")
    series = [[read(f"benchmarks/{name}")["rows"][row] for name in names] for row in ("pgd-at", "clat")]
    by_pgd_at, by_clat = ([f"{one['two over one']['median']:.2f}" for one in rows] for rows in series)
    alone = [
        sorted(f"{one['two over one, nothing exchanged']['median']:.2f}" for one in rows)[::2] for rows in series
    ]
    return (
        f"at {by_pgd_at[0]}, {by_pgd_at[1]} and {by_pgd_at[2]} times the rate of one by PGD-AT, and at "
        f"{by_clat[0]}, {by_clat[1]} and {by_clat[2]} times by CLAT. Without any exchange they reach "
        f"{' to '.join(alone[0])} and {' to '.join(alone[1])}."
    )


def computed_seconds() -> str:
    rows = read("benchmarks/two_processes_3")["rows"]
    alone = rows["clat"]["CPU seconds of a round"]["one"]
    ratios = [f"{rows[row]['two over one, by CPU seconds']['median']:.2f}" for row in ("pgd-at", "clat")]
    return (
        f"the same four steps of CLAT on one of them took {min(alone):.1f} to {max(alone):.1f} seconds of it: who "
        "exchanges waits for the slower. By the seconds that the processes compute, the third series has "
        + " and ".join(ratios)
    )


def averaged_weights() -> str:
    groups = {one["name"]: one for one in read("hardening/pgd-20")["groups"] if one["weights"] == "last"}
    names = [name for name in groups if f"{name}-ema" in groups]

    def gains(kind: str, *, without: str = "") -> list[float]:
        return sorted(
            groups[f"{name}-ema"][kind]["mean"] - groups[name][kind]["mean"] for name in names if name != without
        )

    robust, clean = gains("robust"), gains("clean", without="gat")
    return (
        f"on test images between {signed(robust[0])} and {signed(robust[-1])} points of robust accuracy, GAT aside "
        f"{signed(clean[0])} to {signed(clean[-1])} clean"
    )


SENTENCES: list[tuple[str, Callable[[], str]]] = [
    ("docs/results/claim/overfitted.md", lambda: curvature_row("the paper's index", "clat")),
    ("docs/results/claim/overfitted.md", lambda: curvature_row("curvature", "clat-rank-curvature")),
    (
        "docs/results/claim/overfitted.md",
        lambda: curvature_row("curvature over N_i", "clat-rank-curvature-numel"),
    ),
    ("README.md", lambda: f"a CLAT step takes {steps('clat 11', 'to_pgd_at', 2)} of the time of a PGD-AT step"),
    (
        "docs/results/README.md",
        lambda: (
            f"it takes {steps('clat 11', 'to_pgd_at', 2)} of its time and "
            f"{steps('clat 11', 'to_pgd_at_memory', 2)} of its memory"
        ),
    ),
    (
        "docs/results/README.md",
        lambda: f"PGD-AT is {steps('pgd-at', 'faster_than_plain', 1)} times as fast as a plain float32 script's",
    ),
    (
        "docs/results/README.md",
        lambda: (
            f"it loses {size(FEW, LOSING, 'clean')} points of clean accuracy {interval(FEW, LOSING, 'clean')} and "
            f"keeps the robust accuracy ({size(FEW, LOSING, 'robust')} {interval(FEW, LOSING, 'robust')})"
        ),
    ),
    (
        "docs/results/README.md",
        lambda: (
            f"it loses {size(MANY, LOSING, 'clean')} clean {interval(MANY, LOSING, 'clean')} and "
            f"{size(MANY, LOSING, 'robust')} robust {interval(MANY, LOSING, 'robust')}"
        ),
    ),
    (
        "docs/results/README.md",
        lambda: (
            f"our strongest form gains** {size(FEW, STRONGEST, 'robust')} robust "
            f"{interval(FEW, STRONGEST, 'robust')} for {size(FEW, STRONGEST, 'clean')} clean "
            f"{interval(FEW, STRONGEST, 'clean')}"
        ),
    ),
    (
        "docs/results/README.md",
        lambda: f"gains as much: {size(FEW, 'pgd-at-80%', 'robust')} for {size(FEW, 'pgd-at-80%', 'clean')}.",
    ),
    (
        "docs/results/README.md",
        lambda: (
            f"`clat-plus` gains {size('claim/finals/autoattack', 'plus-output-ratio-0.3', 'robust')} under "
            "AutoAttack"
        ),
    ),
    (
        "docs/results/README.md",
        lambda: f"costs {read('benchmarks/criticality_cost')['criticality / pgd-10']} times one PGD-10 attack",
    ),
    ("docs/results/README.md", agreeing),
    (
        "docs/results/README.md",
        lambda: "ours takes {:.2f} to {:.2f} of the official code's time on the two networks and {:.2f}".format(
            *autoattack("cnn_a_2", "cnn_a_8", "resnet4b_2", "resnet4b_8")[::3], *autoattack("resnet18_8")
        ),
    ),
    ("docs/results/own-networks.md", lambda: f"| ViT of transformers | {wrapping('hf vit')} |"),
    ("docs/results/own-networks.md", lambda: f"| ResNet of transformers | {wrapping('hf resnet')} |"),
    ("docs/results/own-networks.md", lambda: f"| `timm:test_resnet` | {wrapping('timm test_resnet')} |"),
    ("docs/speed.md", briefly_waiting),
    ("docs/cluster.md", two_processes),
    ("docs/cluster.md", computed_seconds),
    ("docs/results/hardening/README.md", averaged_weights),
    ("docs/results/paper/README.md", shared_layers),
    ("docs/results/paper/README.md", images_of_a_selection),
    *(("docs/results/layers/README.md", partial(ranking_row, name)) for name in RANKINGS),
    ("docs/results/layers/README.md", what_the_index_foretells),
    ("docs/results/layers/README.md", what_the_weights_foretell),
    ("docs/results/layers/README.md", what_robust_accuracy_followed),
    ("docs/results/layers/README.md", a_layer_alone),
    ("docs/results/README.md", lambda: f"| PGD-AT to the end | {accuracies('pgd-at', 'last')} |"),
    ("docs/results/README.md", lambda: f"(the paper's form, ratio 0.1) | {accuracies('clat', 'last')} |"),
    ("docs/results/README.md", lambda: f"early-stopped on held-out images | {accuracies('pgd-at', 'best')} |"),
]


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_a_sentence_says_what_its_files_do(page: str, sentence: Callable[[], str]) -> None:
    assert sentence() in page_text(page)


def test_the_candidates_of_hardening_are_what_their_files_say() -> None:
    page = (RESULTS / "hardening" / "README.md").read_text().replace("\xa0", " ")

    def shown(found: dict[str, Any]) -> str:
        return f"{100 * found['mean']:.1f} % ± {100 * found['deviation']:.1f}"

    groups = read("hardening/table")["groups"]
    finals = [group for group in read("hardening/pgd-20")["groups"] if group["weights"] == "last"]
    assert [group["name"] for group in finals] == [group["name"] for group in groups]
    for group in groups:
        line = rf"\| {re.escape(group['name'])} \| [\d +]+ \| {len(group['seeds'])} \| (.*? \| .*?) \|"
        (found,) = re.findall(line, page)
        assert found == f"{shown(group['last_clean'])} | {shown(group['last_robust'])}"
    for group in finals:
        assert f"| {group['name']} | {shown(group['clean'])} | {shown(group['robust'])} |" in page
