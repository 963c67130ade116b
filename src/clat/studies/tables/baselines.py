"""Every adversarial-training baseline but N-FGSM, GAT and FAT, alone and under CLAT, at one budget.

A baseline keeps its own objective, treatments, augmentation and, where it is the method, network; data, eps,
epochs, batch size and learning rate are the study's. What the papers print stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from clat.core.files import replace_file
from clat.core.formatting import counted
from clat.data import hold_out, load_split
from clat.studies.row import Paper, Row, Scale, Study, Table, clat_stage, make_recipe, stage
from clat.studies.tables.scales import SHORT, SMOKE


def pair(
    scale: Scale,
    name: str,
    objective: str | Mapping[str, Any],
    *,
    changes: Table | None = None,
    stateful: bool = False,
    papers: tuple[Paper | None, Paper | None] = (None, None),
    note: str = "",
    fast: bool = False,
    exclude: tuple[str, ...] = (),
    more: Sequence[Table] | None = None,
    **settings: Any,
) -> list[Row]:
    """Return the rows X and X + CLAT; the second takes over X's first stage from the first.

    Args:
        scale: epochs and shared settings.
        name: X's name.
        objective: X's objective, by its name or as a table.
        changes: recipe fields of both rows that differ from the scale's.
        stateful: X keeps state that a cut into two stages would reset: X is one stage, and nothing is taken over.
        papers: what a paper prints for X and for X + CLAT.
        note: what a reader should know of X.
        fast: take CLAT's one-step form.
        exclude: patterns of layers that CLAT leaves alone.
        more: treatments of X's second part, where they differ from the first's.
        **settings: more fields of X's stage.

    Returns:
        The two rows.
    """
    first = stage(name, scale.start, objective, **settings)
    second = stage(f"{name}-on", scale.rest, objective, **settings)
    if more is not None:
        second["treatments"] = list(more)
    alone = [{**first, "epochs": scale.epochs}] if stateful else [first, second]
    return [
        Row(name, make_recipe(scale, name, alone, changes), paper=papers[0], note=note),
        Row(
            f"{name}+clat",
            make_recipe(scale, name, [first, clat_stage(scale.rest, fast=fast, exclude=exclude)], changes),
            reuse=None if stateful else name,
            paper=papers[1],
        ),
    ]


def rows(scale: Scale, out: Path) -> Sequence[Row]:
    """Return every baseline alone and under CLAT, in the table's order.

    Args:
        scale: epochs and shared settings.
        out: the study's folder, in which some rows find weights or images.

    Returns:
        The rows.
    """
    found = [_alone(scale, "standard", "standard", note="Not adversarial: the mixture's standard member.")]
    found += pair(scale, "pgd-at", "pgd-at", papers=_table1(81.46, 53.63, 83.89, 55.37))
    found += pair(scale, "trades", "trades", papers=_table1(81.54, 53.31, 81.89, 54.57))
    found += pair(
        scale,
        "mart",
        "mart",
        changes={"schedule": {"lr": 0.01}, "optimizer": {"weight_decay": 3.5e-3}},
        papers=_table1(76.77, 56.90, 76.82, 57.55),
        note="Its authors' learning rate and weight decay: at the other rows' it stays at chance.",
    )
    awp = {"name": "awp", "gamma": 0.01}
    found += pair(
        scale,
        "awp",
        {"name": "pgd-at", "attack_bn": "train"},
        treatments=[awp | {"warmup": scale.start // 2}],
        more=[awp],
        papers=_table1(78.40, 53.83, 79.01, 55.27),
        note="Perturbed weights after half of the first stage: perturbed from the first step on, as published, it "
        "stays at chance within this budget.",
    )
    found += pair(scale, "trades-awp", "trades", treatments=[awp | {"gamma": 0.005}], note=_NO_WARMUP)
    found += pair(scale, "score-at", "score-at", papers=_table1(84.20, 54.59, 86.11, 55.78))
    found += pair(scale, "score-trades", "score-trades")
    found += _fast_at(scale)
    found += pair(scale, "free-at", "free-at", stateful=True, note="Eight steps on each batch in a row.")
    found += pair(scale, "grad-align", "grad-align", fast=True)
    window = max(1, scale.epochs // 20)
    swa = {"name": "swa", "start": 0.5, "window": window}
    found += pair(
        scale, "swaat", "pgd-at", treatments=[swa], stateful=True, note=f"Windows of {counted(window, 'epoch')}."
    )
    found += pair(scale, "ema", "pgd-at", treatments=[_EMA], stateful=True)
    for strength in ("idbh-weak", "idbh-strong"):
        found += pair(scale, strength, "pgd-at", changes={"data": {"augment": strength}})
    found += _generated(scale, out)
    return [*found, *_mixture(scale, out)]


def _fast_at(scale: Scale) -> list[Row]:
    """Return Fast-AT on its PreAct ResNet-18, under CLAT's one-step form and under the one of ten steps."""
    changes: Table = {"model": {"name": "preact-resnet18-raw"}}
    papers = _table1(81.46, 45.55, 82.72, 49.62)
    one_step = pair(scale, "fast-at", "fast-at", changes=changes, papers=papers, fast=True, note=_PREACT)
    paper = _table1(81.46, 45.55, 84.46, 52.13)[1]
    ten_steps = pair(scale, "fast-at", "fast-at", changes=changes)[1]
    name = "fast-at+clat-ten-steps"
    return [*one_step, replace(ten_steps, name=name, recipe=replace(ten_steps.recipe, name=name), paper=paper)]


_PREACT = "A PreAct ResNet-18, as in the paper's table."
_NO_WARMUP = "Without the ten epochs of warm-up of the released code, which this budget does not hold."
_EMA = {"name": "ema", "decay": 0.995}


def _table1(clean: float, robust: float, clean_clat: float, robust_clat: float) -> tuple[Paper, Paper]:
    where = ("PGD-10", "CLAT v2, T1")
    return Paper(clean, robust, *where), Paper(clean_clat, robust_clat, *where)


def _alone(scale: Scale, name: str, objective: str, note: str = "") -> Row:
    stages = [stage(name, scale.start, objective), stage(f"{name}-on", scale.rest, objective)]
    return Row(name, make_recipe(scale, name, stages), note=note)


def _generated(scale: Scale, out: Path) -> list[Row]:
    """Return the recipe of Wang et al. 2023 on their network and on Peng et al.'s of 2023, alone and under CLAT."""
    objective = {"name": "trades", "beta": 5.0, "label_smoothing": 0.1, "start": "uniform", "attack_bn": "train"}
    found = []
    for name, network, paper in (
        ("wang2023", "dm-wrn-28-10", None),
        ("peng2023", "ra-wrn-70-16", Paper(93.27, 71.07, "AutoAttack", "RaWRN-70-16, 50M images")),
    ):
        small = {"name": network, "depths": [1, 1, 1], "width": 16 if network == "dm-wrn-28-10" else 22}
        changes = {
            "model": (small if scale.name == "smoke" else {"name": network}) | {"normalize": "cifar10"},
            "data": {"extra": {"file": str(out / STAND_IN), "fraction": 0.7}},
            "schedule": {"kind": "one-cycle", "lr": 0.1},
            "optimizer": {"nesterov": True},
        }
        found += pair(
            scale,
            name,
            objective,
            changes=changes,
            treatments=[_EMA],
            stateful=True,
            exclude=("*.se.*",) if name == "peng2023" else (),
            papers=(paper, None),
            note=_STAND_IN if "train_size" in scale.settings["data"] else _NOTHING_MORE,
        )
    return found


STAND_IN = "inputs/stand-in.npz"
_STAND_IN = (
    "No generated images come with clat: real training images that the other rows do not use stand in for them, so "
    "this row sees more real data than the others."
)
_NOTHING_MORE = (
    "No generated images come with clat: the training images of all rows stand in for them, as none are left over, "
    "so this row sees no more data than the others."
)


def write_stand_in(scale: Scale, out: Path, file: Path | None = None) -> None:
    """Write training images that are neither trained on nor held out, in the form of a file of generated ones.

    Where rows train on all that they do not hold out, these same images are written.

    Args:
        scale: says which data set, how many images rows train on, and how many they hold out.
        out: the study's folder; a file that is there already is kept.
        file: where they go; None: to STAND_IN in that folder.
    """
    file = out / STAND_IN if file is None else file
    if file.exists():
        return
    data = scale.settings["data"]
    images = load_split(data["name"], "train")
    used = data["heldout"] + data.get("train_size", 0)
    rest, _ = hold_out(images, used, 0)
    pixels = rest.take(min(len(rest), 2 * data.get("train_size", len(rest)))).load()
    assert isinstance(pixels.images, Tensor)
    file.parent.mkdir(parents=True, exist_ok=True)
    image, label = pixels.images.permute(0, 2, 3, 1).numpy(), pixels.labels.numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as out:  # by its name NumPy would add ".npz" to it
            np.savez(out, image=image, label=label)

    replace_file(file, write)


def _mixture(scale: Scale, out: Path) -> list[Row]:
    """Return adaptive smoothing of a standard and a robust network, as the first part of the budget leaves them."""

    def member(row: str) -> Table:
        weights = out / "runs" / row / "weights" / "stage-1.safetensors"
        return dict(scale.settings["model"]) | {"weights": str(weights)}

    model: Table = {"name": "mixture", "scales": [1.2, 0.5]}
    model |= {"standard": member("standard"), "robust": member("pgd-at")}
    gate = {"standard": ["layer2", "layer3"], "robust": ["layer2", "layer3"], "hidden": [16, 16]}
    base = scale.settings | {"model": {}}
    bare = Scale(scale.name, scale.start, scale.rest, base, scale.remark)
    needs, gated, fixed = ("standard", "pgd-at"), model | {"gate": gate}, model | {"alpha": 0.924}
    robust: Table = {"include": ["robust.*"]}
    rest = stage("pgd-at-on", scale.rest, "pgd-at", selection={"rule": "all", **robust})
    clat = clat_stage(scale.rest, **robust)
    mixing = stage("mixing", scale.rest, {"name": "mixing", "steps": 10}, schedule={"kind": "constant", "lr": 0.01})
    return [
        Row(name, make_recipe(bare, name, [last], {"model": network}), needs=needs, note=note)
        for name, last, network, note in (
            ("mixture", rest, fixed, _MIXTURE + "PGD-AT goes on in the robust one."),
            ("mixture+clat", clat, fixed, _MIXTURE + "CLAT moves a layer of the robust one."),
            (
                "mixture-gate",
                mixing,
                gated,
                "Adaptive smoothing with a gate, which is all that the last part trains.",
            ),
        )
    ]


_MIXTURE = (
    "Adaptive smoothing with a fixed alpha of a standard and a PGD-AT network, as they are after the first part of "
    "the budget, attacked end to end. "
)

BASELINES = Study(
    "baselines", "Adversarial-training baselines, alone and under CLAT", rows, (SMOKE, SHORT), write_stand_in
)
