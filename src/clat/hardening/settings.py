"""What a user may say to `clat harden`, checked where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from clat.core.checks import at_least, within
from clat.core.durations import parse_duration
from clat.core.errors import ClatError, unknown
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.hardening.candidates import CANDIDATES
from clat.recipe.data_settings import DataConfig
from clat.runtime.settings import precision_named

FIELDS = ("stages", "optimizer", "schedule", "monitor")
"""Tables of the recipe whose fields may be given: settings of their own, or the plan, decide the others."""
Keep = Literal["best", "last", "clat", "clat-plus"]


@dataclass(frozen=True, kw_only=True)
class HardenConfig:
    """The settings of a hardening. Of `budget` and `epochs` one is given."""

    eps: Size = "8/255"
    """The radius of the perturbations to withstand, in image units."""
    norm: Literal["linf", "l2"] = "linf"
    budget: str | float | None = None
    """Time for everything, looking, training and measuring: seconds, or words such as "30m"."""
    epochs: int | None = None
    """Or: the length of the training."""
    max_clean_drop: float | None = None
    """Percentage points of clean accuracy that may be lost, on held-out images with a confidence of 90 %; None: no
    promise."""
    objective: str | None = None
    """One of CANDIDATES; None: the strongest that the budget allows (`clat.hardening.plan`)."""
    keep: Keep = "best"
    """What guards against robust overfitting. `best`: the weights with the highest robust accuracy on held-out
    images. `last`: nothing. `clat`, `clat-plus`: the last fifth of the epochs tunes the critical layers alone."""
    protocol: str = "cr"
    """How the network is measured on test images, before and after: as of `clat evaluate`. Under cr as many images
    are robust as under AutoAttack, or a few more, at a thirtieth of its passes; signs of gradient masking, where
    it would not be so, are looked for."""
    num_samples: int | None = None
    """Test images; None: 1,000, or as many as 15 % of the budget allows, at least 100."""
    heldout: int | None = None
    """Images cut from train that decide everything; None: a tenth of it, at most 1000."""
    train_size: int | None = None
    """Train on this many images only; None: all that are not held out."""
    batch_size: int = 128
    augment: str | None = None
    """As of a recipe's data: none, imagenet, package.module:name, ...; None: the crop and flip that the network
    bears (`clat.hardening.augmentation`)."""
    precision: str = "auto"
    """As of a recipe's engine: auto, 32 (or float32), bf16-mixed (or bfloat16)."""
    device: str = "auto"
    seed: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe that are not to be as `clat.hardening.recipe` has them, such as
    {"stages.harden.eps_schedule.until": 0.3, "monitor.loggers": ["csv"]}; of FIELDS."""
    origin: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Where network and images come from, as the tables `model` and `data` of a recipe have it: then the recipe of
    the run repeats it."""

    def __post_init__(self) -> None:
        for name in self.fields:
            _check_field(name)
        object.__setattr__(self, "precision", precision_named(self.precision))
        object.__setattr__(self, "eps", self.threat.text)
        if self.threat.eps == 0:
            raise ClatError("eps is 0: there is nothing to withstand; give a size such as 8/255")
        if self.budget is not None:
            object.__setattr__(self, "budget", parse_duration(self.budget))
        if (self.budget is None) == (self.epochs is None):
            raise ClatError("give a budget such as 30m, or a number of epochs, and not both")
        if self.epochs is not None:
            at_least("epochs", self.epochs, 1)
        if self.max_clean_drop is not None:
            within("max_clean_drop", self.max_clean_drop, 0, 100)
        if self.objective is not None and self.objective not in CANDIDATES:
            raise unknown("objective", self.objective, CANDIDATES)
        if self.keep not in get_args(Keep):
            raise unknown("keep", self.keep, get_args(Keep))
        at_least("batch_size", self.batch_size, 1)
        if self.augment is not None:
            DataConfig(augment=self.augment)  # is there such a one?
        for what in ("num_samples", "heldout", "train_size"):
            if getattr(self, what) is not None:
                at_least(what, getattr(self, what), 1)

    @property
    def budget_seconds(self) -> float:
        """Return the budget in seconds, infinite where the epochs are given instead."""
        return float("inf") if self.budget is None else float(self.budget)

    @property
    def threat(self) -> ThreatModel:
        """Return the threat model that `eps` and `norm` name."""
        return ThreatModel.parse(self.eps, self.norm)


def _check_field(name: str) -> None:
    """Refuse a field of the recipe that something else decides."""
    table, _, rest = name.partition(".")
    if table not in FIELDS or not rest:
        from clat.recipe.problems import fields_called

        tables = ("optimizer.", "schedule.", "monitor.")
        near = [f"--{path}" for path in fields_called(name) if path.startswith(tables)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ClatError(
            f"--{name}: a hardening takes fields of {', '.join(FIELDS)}, and the options of clat harden{hint}"
        )
    if table == "stages" and rest.endswith(".epochs"):
        raise ClatError(f"--{name}: the plan decides on the stages' epochs; give --epochs, or a budget")
