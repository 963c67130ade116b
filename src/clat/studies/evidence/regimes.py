"""The regimes in which CLAT is held against its controls: network, data, budget, and the rows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clat.core.errors import unknown
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.scales import NARROW, PaperScale

FORMS = ("clat", "clat-fast", "clat-plus")
"""Forms of CLAT, as a RunSpec's follower: the paper's, its one-step form, ours."""


@dataclass(frozen=True, kw_only=True)
class EvidenceRow:
    """One line: a way to spend a regime's epochs."""

    name: str
    control: bool
    """It is what a form of CLAT has to beat; else it is a form."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its RunSpec but for network, data set, seed and ratio."""
    form: str = ""
    """The form of CLAT whose chosen ratio it takes; empty: it has none."""
    weights: str = "last"
    """`best`: those of the last stage's best epoch on held-out images, which is early stopping."""

    def run(self, regime: Regime, seed: int, ratio: float) -> RunSpec:
        """Return the network of a seed.

        Args:
            regime: the row's.
            seed: of the run.
            ratio: CLAT's lambda, as a ratio of losses; not read where the row has none.

        Returns:
            What is trained.
        """
        given = {"base": regime.base, **self.spec} | ({"ratio": ratio} if self.form else {})
        return RunSpec(network=regime.network, dataset=regime.dataset, seed=seed, **given)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """A budget under which all rows are trained, and what they begin with."""

    name: str
    title: str
    base: str
    """X."""
    strong: str
    """X with averaged weights and label smoothing."""
    network: str
    dataset: str
    scale: PaperScale
    time: float
    """The time of "X + CLAT" over that of X for as many epochs, by the steps' costs (`clat bench`)."""
    only: tuple[str, ...] = ()
    """Rows, of a regime in which not all are run; empty: all."""

    def rows(self) -> list[EvidenceRow]:
        """Return the controls, then the forms of CLAT."""
        return [row for row in every_row(self) if not self.only or row.name in self.only]

    def choices(self, seed: int) -> dict[str, dict[str, Any]]:
        """Return what the ratio of each form of CLAT is chosen for, as the arguments of `choose_ratio`.

        Args:
            seed: of the networks that it is chosen from.

        Returns:
            Form -> network, dataset, seed, base and follower.
        """
        forms = {row.form for row in self.rows()}
        place = {"network": self.network, "dataset": self.dataset, "seed": seed, "base": self.base}
        return {form: {**place, "follower": form} for form in FORMS if form in forms}


def every_row(regime: Regime) -> list[EvidenceRow]:
    """Return all rows that a regime can have.

    Args:
        regime: gives X and its stronger form.

    Returns:
        The controls, then the forms of CLAT behind X and behind its stronger form, each with its last weights and
        with those of its best epoch.
    """
    strong: dict[str, Any] = {"base": regime.strong}

    def both(name: str, *, control: bool, **more: Any) -> list[EvidenceRow]:
        last = EvidenceRow(name=name, control=control, **more)
        return [last, replace(last, name=f"{name}, stopped", weights="best")]

    return [
        *both("X", control=True),
        *both("X, averaged", control=True, spec=strong),
        EvidenceRow(name="X, averaged, in CLAT's time", control=True, spec={**strong, "length": regime.time}),
        EvidenceRow(name="X on critical layers", control=True, spec={"follower": "tune"}),
        EvidenceRow(
            name="X + clat on all layers", control=True, spec={"follower": "clat", "layers": "all"}, form="clat"
        ),
        EvidenceRow(
            name="X + clat on random layers",
            control=True,
            spec={"follower": "clat", "layers": "random"},
            form="clat",
        ),
        EvidenceRow(
            name="X + clat on the least critical",
            control=True,
            spec={"follower": "clat", "layers": "smallest"},
            form="clat",
        ),
        *(row for form in FORMS for row in both(f"X + {form}", control=False, spec={"follower": form}, form=form)),
        *(
            row
            for form in FORMS
            for row in both(f"X, averaged, + {form}", control=False, spec={**strong, "follower": form}, form=form)
        ),
    ]


_RATIOS = (0.01, 0.03, 0.1, 0.3, 1.0)
OVERFITTING = replace(NARROW, ratios=_RATIOS, test_size=5000)
ANNEALED = replace(
    NARROW,
    name="annealed",
    epochs=6,
    batch_size=128,
    train_size=None,
    monitor_every=1,
    test_size=5000,
    ratios=_RATIOS,
    remark="All of CIFAR-10, six epochs along a cosine that would end after nine, as the paper's hundred are of "
    "150, and a ResNet-18 of width 16.",
)
FAST = replace(
    NARROW,
    name="fast",
    epochs=30,
    batch_size=128,
    train_size=8000,
    monitor_every=3,
    test_size=5000,
    ratios=_RATIOS,
    remark="8,000 images of CIFAR-10 and thirty epochs along Fast-AT's own learning rates; a PreAct ResNet-18 of "
    "width 16.",
)

_PAPER = (
    *("X", "X, stopped", "X, averaged", "X, averaged, stopped", "X, averaged, in CLAT's time"),
    *("X on critical layers", "X + clat on all layers", "X + clat on random layers"),
    *("X + clat", "X + clat-fast", "X + clat-plus", "X, averaged, + clat", "X, averaged, + clat-plus"),
)
_MATTER = ("X", "X, averaged", "X, averaged, stopped", "X + clat", "X + clat-plus", "X, averaged, + clat-plus")
_OVERFITTING: dict[str, Any] = {"base": "pgd-at", "strong": "ema-ls", "scale": OVERFITTING, "time": 0.85}

REGIMES = (
    Regime(
        name="overfitting",
        title="Few images, many epochs: PGD-AT overfits robustly",
        network="resnet18",
        dataset="cifar10",
        **_OVERFITTING,
    ),
    Regime(
        name="annealed",
        title="All images, few epochs: the paper's budget in shape",
        base="pgd-at",
        strong="ema-ls",
        network="resnet18",
        dataset="cifar10",
        scale=ANNEALED,
        time=0.85,
        only=_PAPER,
    ),
    Regime(
        name="fast",
        title="Fast-AT, then CLAT",
        base="fast-at-cyclic",
        strong="fast-at-cyclic-ema-ls",
        network="preact-resnet18",
        dataset="cifar10",
        scale=FAST,
        time=1.5,
    ),
    Regime(
        name="cifar100",
        title="Few images of a hundred classes",
        network="resnet18",
        dataset="cifar100",
        only=_MATTER,
        **_OVERFITTING,
    ),
    Regime(
        name="imagenette",
        title="Few photographs of 64 pixels",
        network="resnet18",
        dataset="imagenette",
        only=_MATTER,
        **_OVERFITTING,
    ),
    Regime(
        name="wide",
        title="A WideResNet",
        network="wrn-34-10",
        dataset="cifar10",
        only=_MATTER,
        **_OVERFITTING,
    ),
)


def find_regime(name: str) -> Regime:
    """Return a regime by its name.

    Args:
        name: one of `REGIMES`.

    Returns:
        The regime.

    Raises:
        ClatError: If there is none; the message has the nearest name.
    """
    found = {regime.name: regime for regime in REGIMES}
    if name not in found:
        raise unknown("regime", name, found)
    return found[name]
