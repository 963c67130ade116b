"""The methods that stand in the papers' tables: what X trains by, and what it keeps of its own settings.

Each trains anew under the table's one budget and eps. Where the paper printed another work's number, the note says
what ours is instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clat.core.errors import unknown
from clat.studies.paper.scales import Table

EPS, ALPHA, ONE_STEP = "0.03", "0.007", "0.0375"
"""CLAT's radius, step size, and step of a one-step attack (1.25 eps, as Fast-AT's 10/255 at 8/255)."""
AVERAGED = "PGD-AT, averaged weights"
"""What figures call the control of a gain that averaging alone would give, `ema` in the tables."""
CURE_EPS, CURE_ALPHA = "8/255", "2/255"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One X of "X" and "X + CLAT"."""

    objective: Table
    """Its table in a recipe; `attack` fills in steps and alpha."""
    treatments: tuple[Table, ...] = ()
    changes: Table = field(default_factory=dict)
    """Recipe fields that are its own."""
    stage: Table = field(default_factory=dict)
    """Fields of its stage that are its own, such as a learning rate by which it fine-tunes."""
    after: Table = field(default_factory=dict)
    """The schedule of what follows it, where its own comes to its end with its part; empty: that goes on."""
    forms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The paper's network -> fields that its authors set otherwise there."""
    stateful: bool = False
    """It keeps state that a cut into two stages would reset."""
    before: str = ""
    """The method that the first half of its share begins with; empty: it begins from random weights."""
    built_in: Mapping[str, str] = field(default_factory=dict)
    """The paper's network -> the built-in form of it that the method has."""
    generated: bool = False
    """It trains on generated images as well."""
    exclude: tuple[str, ...] = ()
    """Layers that CLAT leaves alone."""
    same_as: str = ""
    """The method whose networks are its own here."""
    kept: bool = False
    """A CLAT stage behind it goes on with its label smoothing and its treatments."""
    note: str = ""
    """What a reader should know of our row beside the printed one."""

    def on(self, network: str) -> Method:
        """Return the method as its authors have it on a network.

        Args:
            network: the paper's network.

        Returns:
            This one, or one with other fields.
        """
        return replace(self, **self.forms[network]) if network in self.forms else self

    def with_attack(self, alpha: str) -> Table:
        """Return the objective with ten steps of `alpha`, where it takes steps.

        Args:
            alpha: the step size, in image units.

        Returns:
            The objective's table.
        """
        name = self.objective["name"]
        if name == "standard":
            return dict(self.objective)
        if name == "fast-at":
            return {"alpha": ONE_STEP, **self.objective}
        return {"steps": 10, "alpha": alpha, **self.objective}


_PGD: Table = {"name": "pgd-at"}
_BATCH: Table = {"name": "pgd-at", "attack_bn": "train"}
_WANG: Table = {
    "name": "trades",
    "beta": 5.0,
    "label_smoothing": 0.1,
    "start": "uniform",
    "attack_bn": "train",
}
_EMA: Table = {"name": "ema", "decay": 0.995}
_CYCLIC: Table = {"kind": "cyclic", "lr": 0.2, "peak": 0.5}
_AFTER_CYCLE: Table = {"kind": "cosine", "lr": 0.05, "warmup": 1.0}
"""The mean rate of CLAT's part in the paper, falling to 0: a cycle cut in two would hand over at its peak."""
_FROM_PGD = "The paper takes it from a work that starts from a robust ImageNet network; here it starts from PGD-AT."
_ONE_CYCLE = (
    "One cycle of rate and momentum that ends at 0 with the run, as its authors have it, up to the other rows' "
    "rate of 0.1 (theirs: 0.2 at batches of 512). "
)
_ONE_CYCLE_SCHEDULE: Table = {"kind": "one-cycle", "lr": 0.1, "momentum": [0.95, 0.85]}
_GENERATED = (
    "No generated images come with clat: unless a file of them lies in CLAT_DATA_DIR (edm_1m.npz for "
    "CIFAR-10, edm_1m-cifar100.npz for CIFAR-100), real training images stand in for them: at smoke and "
    "narrow scale others than the table's, at full scale the same ones."
)
_NATURAL = "Natural training for half as many epochs comes before those of the other rows, as in the paper."
_CHECKPOINT = "The paper's row is a published checkpoint of RobustBench under a wrong name; "

METHODS: dict[str, Method] = {
    "pgd-at": Method(objective=_PGD),
    "ema": Method(
        objective=_PGD,
        treatments=(_EMA,),
        stateful=True,
        note="PGD-AT with averaged weights: the control of a gain that averaging alone would give. Not printed.",
    ),
    "ema-ls": Method(
        objective={**_PGD, "label_smoothing": 0.1},
        treatments=(_EMA,),
        stateful=True,
        kept=True,
        note="PGD-AT with averaged weights and label smoothing. Not printed.",
    ),
    "trades": Method(objective={"name": "trades", "beta": 6.0}),
    "mart": Method(
        objective={"name": "mart", "beta": 5.0},
        changes={"schedule": {"lr": 0.01}, "optimizer": {"weight_decay": 3.5e-3}},
        forms={
            "wrn-34-10": {
                "objective": {"name": "mart", "beta": 6.0},
                "changes": {"optimizer": {"weight_decay": 7e-4}},
            }
        },
        note="Its authors' settings: learning rate 0.01, weight decay 0.0035 and beta 5 with a ResNet-18, "
        "which stays at chance at the other rows' rate, and 0.1, 0.0007 and 6 with a WideResNet. What "
        "follows it keeps rate and decay.",
    ),
    "awp": Method(
        note="At smoke and narrow scale the weights are perturbed from the middle of X's part on: from "
        "the first step it stays at chance within so few epochs.",
        objective=_BATCH,
        treatments=({"name": "awp", "gamma": 0.01},),
        built_in={"preact-resnet18": "preact-resnet18-bn"},
    ),
    "score": Method(
        objective={"name": "score-at", "clip": 0.4},
        note="At the other rows' learning rate of 0.1; its authors have 0.05.",
    ),
    "fast-at": Method(objective={"name": "fast-at"}, built_in={"preact-resnet18": "preact-resnet18-raw"}),
    "fast-at-cyclic": Method(
        objective={"name": "fast-at"},
        changes={"schedule": _CYCLIC},
        after=_AFTER_CYCLE,
        built_in={"preact-resnet18": "preact-resnet18-raw"},
        note="Fast-AT along its authors' learning rates: up to the middle of its part, down to its end.",
    ),
    "fast-at-cyclic-ema-ls": Method(
        objective={"name": "fast-at", "label_smoothing": 0.1},
        treatments=(_EMA,),
        changes={"schedule": _CYCLIC},
        after=_AFTER_CYCLE,
        stateful=True,
        kept=True,
        built_in={"preact-resnet18": "preact-resnet18-raw"},
        note="The same with averaged weights and label smoothing.",
    ),
    "swaat": Method(
        objective=_PGD,
        treatments=({"name": "swa", "start": 0.5, "window": 1, "replace_running": True},),
        stateful=True,
    ),
    "idbh-weak": Method(
        objective=_BATCH,
        changes={"data": {"augment": "idbh-weak"}},
        built_in={"preact-resnet18": "preact-resnet18-raw-bn"},
    ),
    "idbh-strong": Method(
        objective=_BATCH,
        changes={"data": {"augment": "idbh-strong"}},
        built_in={"preact-resnet18": "preact-resnet18-raw-bn"},
    ),
    "wang2023": Method(
        objective=_WANG,
        treatments=(_EMA,),
        changes={"schedule": _ONE_CYCLE_SCHEDULE, "optimizer": {"nesterov": True}},
        stateful=True,
        built_in={"wrn-70-16": "dm-wrn-70-16"},
        generated=True,
        note=_ONE_CYCLE + _GENERATED,
    ),
    "peng2023": Method(
        objective=_WANG,
        treatments=(_EMA,),
        changes={"schedule": _ONE_CYCLE_SCHEDULE, "optimizer": {"nesterov": True}},
        stateful=True,
        built_in={"wrn-70-16": "ra-wrn-70-16"},
        generated=True,
        exclude=("*.se.*",),
        note=_ONE_CYCLE + _GENERATED,
    ),
    "bai2024": Method(
        objective=_PGD,
        note="Adaptive smoothing with a fixed alpha of a standard and a PGD-AT network, attacked end to "
        "end. Alone, PGD-AT goes on with the robust member's layers, through the mixture; with CLAT, its "
        "critical ones. The paper's row is probably the robust member alone.",
    ),
    "lora": Method(objective=_PGD, treatments=({"name": "lora", "rank": 2},), before="pgd-at"),
    "autolora": Method(
        objective={"name": "autolora", "rank": 8},
        changes={"monitor": {"every": 1}},  # its rate follows the held-out accuracy of every epoch
        stage={"schedule": {"kind": "constant", "lr": 0.01}, "optimizer": {"weight_decay": 1e-4}},
        before="pgd-at",
        note=_FROM_PGD
        + " It begins at its authors' rate of 0.01, which it lowers itself, and their weight decay; CLAT "
        "behind it goes on along the other rows' cosine.",
    ),
    "twins": Method(
        objective={"name": "twins"},
        stage={
            "schedule": {"kind": "piecewise", "lr": 0.003, "milestones": [0.5, 0.8333]},
            "optimizer": {"weight_decay": 1e-5},
        },
        before="pgd-at",
        note=_FROM_PGD
        + " Its authors' rate of 0.003, in their steps, and weight decay; CLAT behind it goes on along the "
        "other rows' cosine.",
    ),
    "clean": Method(objective={"name": "standard"}),
    "carlini-wagner2017": Method(
        objective=_WANG,
        treatments=(_EMA,),
        stateful=True,
        built_in={"wrn-70-16": "dm-wrn-70-16"},
        generated=True,
        note=_CHECKPOINT + "here TRADES with generated images, as that one (Gowal et al. 2021). " + _GENERATED,
    ),
    "madry2019": Method(
        objective=_PGD,
        same_as="pgd-at",
        note=_CHECKPOINT + "here PGD-AT, as that one (Engstrom et al. 2019): the networks of the row pgd-at.",
    ),
    "croce-hein2020": Method(
        objective=_PGD,
        generated=True,
        note=_CHECKPOINT + "here PGD-AT with generated images beside the data set's. " + _GENERATED,
    ),
    "fat": Method(objective={"name": "fat", "tau_rises": [0.41666, 0.75]}),
    "idbh": Method(
        objective=_BATCH,
        changes={"data": {"augment": "idbh-strong"}},
        built_in={"preact-resnet18": "preact-resnet18-raw-bn"},
    ),
    "cure": Method(objective={"name": "cure"}, before="clean", note=_NATURAL),
    "cure-eff": Method(
        objective={"name": "cure"},
        before="clean",
        note="Its natural start lies within the epochs of the other rows.",
    ),
    "cure-none": Method(
        objective={"name": "cure", "percent": 0.0, "gamma": 0.0},
        before="clean",
        note=_NATURAL
        + " Its KL has weight 1, as in the paper's text; the printed numbers are those of TRADES (weight 6).",
    ),
    "cure-rgp-only": Method(objective={"name": "cure", "gamma": 0.0}, before="clean", note=_NATURAL),
    "cure-rev-only": Method(objective={"name": "cure", "percent": 0.0}, before="clean", note=_NATURAL),
}
"""X, as printed.csv calls it, -> how it trains."""

FOLLOWERS = ("", "clat", "clat-fast", "clat-plus", "tune", "rift", "lora")
"""What may follow X: nothing (X goes on), CLAT, its one-step form, ours, X's own loss on the layers that CLAT would
move, RiFT, low-rank factors."""


def taken_apart(method: str) -> tuple[str, str]:
    """Return X and what follows it, of a row's name.

    Args:
        method: such as "pgd-at", "trades+clat", "clat-from-clean".

    Returns:
        (X, follower): keys of METHODS and FOLLOWERS.

    Raises:
        ClatError: If there is no such method.
    """
    if method == "clat-from-clean":
        return "clean", "clat"
    base, _, follower = method.partition("+")
    if base not in METHODS:
        raise unknown("method", base, METHODS)
    if follower not in FOLLOWERS:
        raise unknown("follower", follower, FOLLOWERS)
    return base, follower
