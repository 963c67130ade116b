"""Is CLAT's gain real, and under which settings? The grid that asks it, the most decisive cells first.

What it takes over from overfits at a high learning rate; whether that is fair to PGD-AT,
`clat.studies.tables.cosine` asks. All cells begin with the same PGD-AT stage, long enough for the network to
overfit robustly, and differ in what they do with the rest. Held-out images judge; the test split stays unread until
a setting has been chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clat.studies.row import Row, Scale, Study, Table, make_recipe, reselected, stage

NARROW = Scale(
    name="narrow",
    start=60,
    rest=15,
    seeds=(0, 1, 2),
    settings={
        "eps": "8/255",
        "batch_size": 100,
        "model": {"name": "resnet18", "width": 16, "normalize": "cifar10"},
        "data": {"name": "cifar10", "train_size": 1000, "heldout": 3000},
        "monitor": {"num_samples": 2000, "every": 15},
        "evaluation": {"weights": "none"},
    },
    remark="1,000 training images, so that PGD-AT can overfit robustly, and a ResNet-18 of width 16: the regime "
    "that CLAT is meant for, on a CPU. Judged on held-out training images; the test split is unread.",
)

EARLY = replace(
    NARROW,
    name="early",
    start=30,
    remark="As `narrow`, but left before PGD-AT overfits robustly: at the epoch where its held-out robust accuracy "
    "is at its highest in `narrow`. Judged on held-out training images; the test split is unread.",
)

WIDE = Scale(
    name="wide",
    start=20,
    rest=10,
    seeds=(0, 1, 2),
    settings={
        "eps": "8/255",
        "batch_size": 128,
        "model": {"name": "resnet18", "width": 32, "normalize": "cifar10"},
        "data": {"name": "cifar10", "heldout": 5000},
        "monitor": {"num_samples": 2000, "every": 5},
        "evaluation": {"weights": "none"},
    },
    remark="All of CIFAR-10 and a ResNet-18 of width 32, for a GPU. Judged on held-out training images; the test "
    "split is unread.",
)


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return the cells, the most decisive first.

    Args:
        scale: epochs and shared settings.
        out: the study's folder; not read.

    Returns:
        The rows.
    """
    return [*_claim(scale), *_plus(scale), *_layers(scale), *_strong(scale), *_ambiguities(scale), *_starts(scale)]


def _row(scale: Scale, name: str, *rest: Table, start: int | None = None, begun: str = "", note: str = "") -> Row:
    """Return a row of the common start, then `rest`.

    `begun`: what the start leaves, where that is not its last weights of a high learning rate: `averaged` ones,
    which cost nothing, or those of a network that was `finished`, its learning rate at zero, as the ones that users
    bring along.
    """
    epochs = scale.start if start is None else start
    owner = f"{begun}-pgd-at" if begun else "pgd-at"
    begin = stage("pgd-at", epochs, "pgd-at", schedule=FINISHED if begun == "finished" else START)
    if begun == "averaged":
        begin["treatments"] = _AVERAGE
    shared = name != owner and epochs == scale.start
    return Row(name, make_recipe(scale, name, [begin, *rest]), reuse=owner if shared else None, note=note)


_AVERAGE = [{"name": "ema", "decay": 0.99}]
START = {"kind": "piecewise", "lr": 0.1, "milestones": [0.75], "factor": 0.5}
FINISHED = {"kind": "cosine", "lr": 0.1}
END = {"kind": "cosine", "lr": 0.03}
ROBUST: Table = {"ce_input": "pgd", "relative": True, "normaliser": "relative", "tap": "norm"}
OUTPUT: Table = {**ROBUST, "feature_input": "pgd"}
"""`clat-plus`, spelled out."""


def clat_with(
    scale: Scale, epochs: int | None = None, lr: float | None = 0.03, bn: str | None = None, **settings: Any
) -> Table:
    """Return a CLAT stage in the paper's form but for `settings`.

    Args:
        scale: its `rest` is the stage's length by default.
        epochs: another length.
        lr: where the stage's own cosine begins; None: the recipe's schedule goes on.
        bn: BatchNorm policy; None: the default.
        **settings: fields of the objective or, where they name one of its fields, of the selection; `treatments`.

    Returns:
        The stage's table.
    """
    selection: Table = {"rule": "critical", "k": 1, "every": 5}
    objective: Table = {"name": "clat", "ratio": 0.1}
    for key, value in settings.items():
        if key in ("rule", "k", "every", "normaliser", "metric", "ranking", "layers"):
            selection[key] = value
        elif key == "tap":
            selection[key] = objective[key] = value
        elif key == "treatments":
            continue
        else:
            objective[key] = value
    length = scale.rest if epochs is None else epochs
    selection["every"] = reselected(selection["every"], length)
    made = stage("clat", length, objective, selection=selection)
    made |= {"schedule": {"kind": "cosine", "lr": lr}} if lr is not None else {}
    made |= {"batch_norm": bn} if bn else {}
    return made | ({"treatments": settings["treatments"]} if "treatments" in settings else {})


def _claim(scale: Scale) -> list[Row]:
    """Return the rows of the claim itself; early-stopped PGD-AT is the best epoch of the first row."""

    def tuned(rule: str) -> Table:
        selection = {"rule": rule, "k": 1, "every": 5}
        return stage("tune", scale.rest, "pgd-at", selection=selection, schedule=END)

    return [
        _row(scale, "pgd-at", stage("pgd-at-on", scale.rest, "pgd-at", schedule=END)),
        _row(scale, "clat", clat_with(scale)),
        _row(scale, "pgd-at-on-critical", tuned("critical"), note="PGD-AT that moves only what CLAT would."),
        _row(scale, "pgd-at-on-random", tuned("random"), note="PGD-AT that moves a layer drawn at random."),
        _row(scale, "pgd-at-on-least", tuned("least-critical")),
        _row(scale, "ce-on-critical", clat_with(scale, ratio=0.0), note="CLAT without its term (lambda 0)."),
    ]


def _plus(scale: Scale) -> list[Row]:
    """Return rows beyond the paper: cross-entropy on adversarial examples, relative distances, averaged weights."""
    line = [{"name": "interpolation", "margin": 0.0, "end": "last"}]
    variants: dict[str, Table] = {
        "k4": {"k": 4},
        "all": {"rule": "all"},
        "random": {"rule": "random"},
        "least": {"rule": "least-critical"},
        "random-k4": {"rule": "random", "k": 4},
        "random-lr-0.1": {"rule": "random", "lr": 0.1},
        "ratio-0.3": {"ratio": 0.3},
        "ratio-0.3-random": {"ratio": 0.3, "rule": "random"},
        "ratio-0.3-all": {"ratio": 0.3, "rule": "all"},
        "ratio-0.3-lr-0.1": {"ratio": 0.3, "lr": 0.1},
        "ratio-0.3-ema": {"ratio": 0.3, "treatments": _AVERAGE},
        "ratio-0.3-line": {"ratio": 0.3, "treatments": line},
        "ratio-1": {"ratio": 1.0},
        "lr-0.1": {"lr": 0.1},
        "bn-update": {"bn": "update"},
    }
    return [
        _row(scale, "plus-pgd", clat_with(scale, ce_input="pgd")),
        _row(scale, "plus-relative", clat_with(scale, **ROBUST)),
        _row(scale, "plus-relative-k4", clat_with(scale, k=4, **ROBUST)),
        _row(scale, "plus-relative-k4-ema", clat_with(scale, k=4, treatments=_AVERAGE, **ROBUST)),
        _row(scale, "plus-relative-k4-line", clat_with(scale, k=4, treatments=line, **ROBUST)),
        _row(scale, "plus-relative-all", clat_with(scale, rule="all", **ROBUST)),
        _row(
            scale,
            "plus-feature",
            clat_with(scale, **{**ROBUST, "ce_input": "feature"}),
            note="One attack instead of two: cheaper than PGD-AT.",
        ),
        _row(
            scale,
            "plus-output",
            clat_with(scale, **OUTPUT),
            note="One attack, on the output, for both terms.",
        ),
        *(
            _row(scale, f"plus-output-{name}", clat_with(scale, **OUTPUT, **more))
            for name, more in variants.items()
        ),
        _row(scale, "plus-feature-k4", clat_with(scale, k=4, **{**ROBUST, "ce_input": "feature"})),
        _row(
            scale,
            "averaged-pgd-at",
            stage("pgd-at-on", scale.rest, "pgd-at", schedule=END),
            begun="averaged",
            note="The control of the rows that begin with averaged weights.",
        ),
        _row(scale, "averaged-clat", clat_with(scale), begun="averaged"),
        _row(scale, "averaged-plus-pgd", clat_with(scale, ce_input="pgd"), begun="averaged"),
        _row(scale, "averaged-plus-output", clat_with(scale, **OUTPUT), begun="averaged"),
        _row(
            scale,
            "finished-pgd-at",
            stage("pgd-at-on", scale.rest, "pgd-at", schedule=END),
            begun="finished",
            note="A finished PGD-AT network, all of it trained on: the control of the rows that tune it otherwise.",
        ),
        _row(scale, "finished-clat", clat_with(scale), begun="finished"),
        _row(scale, "finished-clat-ratio-1.0", clat_with(scale, ratio=1.0), begun="finished"),
        _row(
            scale,
            "finished-clat-ratio-2.0-all-one-step-lr-0.01",
            clat_with(scale, name="clat-fast", ratio=2.0, rule="all", lr=0.01),
            begun="finished",
        ),
        _row(scale, "finished-plus-output-ratio-0.3", clat_with(scale, **OUTPUT, ratio=0.3), begun="finished"),
        _row(
            scale,
            "pgd-at-ema",
            stage("pgd-at-on", scale.rest, "pgd-at", schedule=END, treatments=_AVERAGE),
            note="The control of the averaged rows.",
        ),
    ]


def _layers(scale: Scale) -> list[Row]:
    """Return rows by which layers move, how many, and how often they are selected.

    In the paper: Tables 5, 7, 14, 20, Figs. 3 and 7.
    """
    found = [
        _row(scale, "clat-random", clat_with(scale, rule="random")),
        _row(scale, "clat-least", clat_with(scale, rule="least-critical")),
        _row(scale, "clat-all", clat_with(scale, rule="all")),
        _row(scale, "clat-fixed", clat_with(scale, every=0)),
    ]
    return found + [_row(scale, f"clat-k{k}", clat_with(scale, k=k)) for k in (2, 4, 8)]


def _strong(scale: Scale) -> list[Row]:
    """Return rows whose L_C weighs as much as the cross-entropy or more, on one layer, some or all."""
    found = [
        _row(scale, "clat-ratio-1.0-random", clat_with(scale, ratio=1.0, rule="random")),
        _row(scale, "clat-ratio-3.0-k4", clat_with(scale, ratio=3.0, k=4)),
    ]
    for ratio, lr in ((1.0, 0.03), (1.5, 0.03), (2.0, 0.03), (3.0, 0.03), (2.0, 0.01), (2.5, 0.01), (3.0, 0.01)):
        for which, layers in (
            ("all", {"rule": "all"}),
            ("k8", {"k": 8}),
            ("random-k8", {"rule": "random", "k": 8}),
        ):
            for how, objective in (("", "clat"), ("-one-step", "clat-fast")):
                name = f"clat-ratio-{ratio}-{which}{how}" + (f"-lr-{lr}" if lr != 0.03 else "")
                found.append(_row(scale, name, clat_with(scale, name=objective, ratio=ratio, lr=lr, **layers)))
    return found


def _ambiguities(scale: Scale) -> list[Row]:
    """Return rows for what the paper leaves open, one setting at a time."""
    found = [
        _row(scale, f"clat-ratio-{ratio}", clat_with(scale, ratio=ratio))
        for ratio in (0.01, 0.03, 0.3, 1.0, 3.0, 10.0)
    ]
    found += [
        _row(scale, "clat-tap-norm", clat_with(scale, tap="norm")),
        _row(scale, "clat-tap-activation", clat_with(scale, tap="activation")),
        _row(scale, "clat-rank-sqrt", clat_with(scale, normaliser="sqrt")),
        _row(scale, "clat-rank-relative", clat_with(scale, normaliser="relative")),
        _row(
            scale, "clat-rank-curvature", clat_with(scale, metric="curvature"), note="nu of the paper's appendix E."
        ),
        _row(
            scale,
            "clat-rank-curvature-numel",
            clat_with(scale, metric="curvature", normaliser="numel"),
            note="nu over the size of the feature, which the appendix does not have.",
        ),
        _row(scale, "clat-relative-term", clat_with(scale, relative=True)),
        _row(scale, "clat-detached", clat_with(scale, detach_clean=True)),
        _row(scale, "clat-ce-feature", clat_with(scale, ce_input="feature")),
        _row(scale, "clat-bn-update", clat_with(scale, bn="update")),
        _row(scale, "clat-bn-selected", clat_with(scale, bn="update-selected")),
        _row(scale, "clat-lr-0.1", clat_with(scale, lr=0.1)),
        _row(scale, "clat-lr-0.003", clat_with(scale, lr=0.003)),
        _row(scale, "clat-one-step", clat_with(scale, name="clat-fast")),
    ]
    return found


def _starts(scale: Scale) -> list[Row]:
    """Return rows that begin earlier, at the same whole budget; `clat.studies.tables.cosine` has more of them."""
    start = round(0.4 * scale.epochs)
    plus = clat_with(scale, epochs=scale.epochs - start, **OUTPUT)
    return [_row(scale, "plus-output-from-40%", plus, start=start)]


CLAIM = Study("claim", "Is CLAT's gain real, and under which settings?", rows, (NARROW, EARLY, WIDE))
