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
    times: Mapping[str, float]
    """Form -> the time of "X + form" over that of X for as many epochs, of the forms whose step costs much less."""
    screened: int
    """Seeds of all rows, from which the control to beat and the finalist are chosen on held-out images."""
    fresh: int
    """Further seeds of those two, which are measured on test images."""
    only: tuple[str, ...] = ()
    """Rows, of a regime in which not all are run; empty: all."""

    @property
    def screened_seeds(self) -> tuple[int, ...]:
        """Return the seeds of all rows."""
        return tuple(range(self.screened))

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the two chosen rows, none of which had a part in choosing them."""
        return tuple(range(self.screened, self.screened + self.fresh))

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
        regime: gives X, its stronger form, and how long X + CLAT takes.

    Returns:
        The controls, then the forms of CLAT behind X and behind its stronger form, each with its last weights and
        with those of its best epoch.
    """
    strong: dict[str, Any] = {"base": regime.strong}

    def both(name: str, *, control: bool, **more: Any) -> list[EvidenceRow]:
        last = EvidenceRow(name=name, control=control, **more)
        return [last, replace(last, name=f"{name}, stopped", weights="best")]

    found = [*both("X", control=True), *both("X, averaged", control=True, spec=strong)]
    if regime.scale.stretch != 1:
        found += both("X, annealed", control=True, spec={"anneal": True})
        found += both("X, averaged, annealed", control=True, spec={**strong, "anneal": True})
    for form, time in regime.times.items():
        name = f"X, averaged, in {form}'s time"
        found.append(EvidenceRow(name=name, control=True, spec={**strong, "length": time}))
    found.append(EvidenceRow(name="X on critical layers", control=True, spec={"follower": "tune"}))
    for form in FORMS:
        spec = {"follower": form, "layers": "random"}
        found.append(EvidenceRow(name=f"X + {form} on random layers", control=True, spec=spec, form=form))
    for form in FORMS:
        found += both(f"X + {form}", control=False, spec={"follower": form}, form=form)
    for form in FORMS:
        found += both(f"X, averaged, + {form}", control=False, spec={**strong, "follower": form}, form=form)
    return found


_RATIOS = (0.01, 0.03, 0.1, 0.3, 1.0)
_HELDOUT: dict[str, Any] = {"heldout": 2000, "monitored": 2000, "test_size": 5000, "strong_size": 1000}
OVERFITTING = replace(
    NARROW,
    name="overfitting",
    epochs=75,
    train_size=1000,
    monitor_every=5,
    stretch=1.0,
    ratios=_RATIOS,
    remark="1,000 training images, 75 epochs along a cosine that ends at 0, networks of width 16: PGD-AT overfits.",
    **_HELDOUT,
)
ANNEALED = replace(
    NARROW,
    name="annealed",
    epochs=6,
    batch_size=128,
    train_size=None,
    monitor_every=1,
    remark="All of CIFAR-10, six epochs along a cosine that would end after nine, as the paper's hundred are of "
    "150, and a ResNet-18 of width 16.",
    **_HELDOUT,
)
FAST = replace(
    NARROW,
    name="fast",
    epochs=30,
    batch_size=128,
    train_size=8000,
    monitor_every=3,
    stretch=1.0,
    ratios=_RATIOS,
    remark="8,000 images of CIFAR-10 and thirty epochs along Fast-AT's own learning rates, or fifteen before "
    "CLAT; a PreAct ResNet-18 of width 16.",
    **_HELDOUT,
)
OTHERS = replace(
    OVERFITTING,
    name="others",
    ratios=NARROW.ratios,
    remark="1,000 training images, 75 epochs along a cosine that ends at 0, a narrow network.",
)


def _with_stopped(*names: str) -> tuple[str, ...]:
    """Return rows, and behind each the one of its best epoch, for which no further network is trained."""
    return tuple(row for name in names for row in (name, f"{name}, stopped"))


_FAST = (
    *_with_stopped("X", "X, averaged"),
    *("X, averaged, in clat-fast's time", "X on critical layers", "X + clat-fast on random layers"),
    *_with_stopped("X + clat-fast", "X, averaged, + clat-fast"),
)
"""`clat` and `clat-plus` take ten steps of attack where Fast-AT takes one: they cannot cost less."""
_ANNEALED = (
    *_with_stopped("X", "X, annealed", "X, averaged", "X, averaged, annealed"),
    *("X, averaged, in clat's time", "X on critical layers"),
    *("X + clat on random layers", "X + clat-plus on random layers"),
    *_with_stopped("X + clat", "X + clat-plus", "X, averaged, + clat", "X, averaged, + clat-plus"),
)
_SMALL = (
    *_with_stopped("X", "X, averaged"),
    *("X, averaged, in clat's time", "X, averaged, in clat-fast's time", "X on critical layers"),
    *("X + clat on random layers", "X + clat-fast on random layers"),
    *_with_stopped("X + clat", "X + clat-fast", "X, averaged, + clat"),
)
_PGD: dict[str, Any] = {"base": "pgd-at", "strong": "ema-ls"}
_TIMES = {"clat": 0.85, "clat-fast": 0.6}
_OTHERS: dict[str, Any] = {**_PGD, "scale": OTHERS, "times": _TIMES, "screened": 1, "fresh": 3, "only": _SMALL}

REGIMES = (
    Regime(
        name="overfitting",
        title="Few images, many epochs: PGD-AT overfits robustly",
        network="resnet18",
        dataset="cifar10",
        scale=OVERFITTING,
        times=_TIMES,
        screened=2,
        fresh=6,
        **_PGD,
    ),
    Regime(
        name="fast",
        title="Fast-AT, then CLAT",
        base="fast-at-cyclic",
        strong="fast-at-cyclic-ema-ls",
        network="preact-resnet18",
        dataset="cifar10",
        scale=FAST,
        times={"clat-fast": 0.82},
        screened=2,
        fresh=6,
        only=_FAST,
    ),
    Regime(
        name="annealed",
        title="All images, few epochs: the paper's budget in shape",
        network="resnet18",
        dataset="cifar10",
        scale=ANNEALED,
        times={"clat": 0.85},
        screened=1,
        fresh=4,
        only=_ANNEALED,
        **_PGD,
    ),
    Regime(
        name="cifar100", title="Few images of a hundred classes", network="resnet18", dataset="cifar100", **_OTHERS
    ),
    Regime(
        name="wide",
        title="A WideResNet",
        network="wrn-34-10",
        dataset="cifar10",
        **_OTHERS | {"times": {**_TIMES, "clat": 0.92}},
    ),
    Regime(
        name="imagenette",
        title="Few photographs of 64 pixels",
        network="resnet18",
        dataset="imagenette",
        **_OTHERS,
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
