"""The plan of a hardening: which objective, for how many epochs, and when it will end, with the reason for each
choice.

From a clean start adversarial training fails at full eps, so eps rises linearly from nothing over the first half of
the epochs (Epsilon-Scheduling, arXiv 2509.23325). Weights are averaged and labels smoothed, which alone bring
PGD-AT more than most methods (FastAT benchmark). The strongest candidate is taken that fits the budget for as many
epochs as it needs. Where whole epochs would leave much of the budget, there is one more, and each has fewer images.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from clat.core.errors import ClatError
from clat.core.formatting import counted, duration
from clat.hardening.candidates import CANDIDATES
from clat.hardening.recipe import EPS_FROM, EPS_UNTIL, TUNING, harden_recipe, tuning_epochs
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import MASKING_SHARE, TEST_SHARE
from clat.network.modes import batch_norms
from clat.recipe.schema import Recipe
from clat.runtime.engine import EngineConfig

MARGIN = 0.95
"""The part of the budget that is planned with: a machine is not always as fast as when it was measured."""
UNUSED = 0.1
"""The part of the time for training that whole epochs may leave over."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training that fits the budget: its objective, its length and its recipe. Times in seconds."""

    objective: str
    epochs: int
    step_seconds: dict[str, float]
    """The seconds of a step of each candidate that was measured."""
    training_seconds: float
    """Seconds of all epochs with their checks."""
    measuring_seconds: float
    """Seconds of what comes after the training: evaluations, and where due the promise and the look for masking."""
    recipe: Recipe
    reasons: tuple[str, ...]
    """One line a decision."""
    train_size: int | None = None
    """Training images of an epoch, where fewer than there are fill the budget better."""
    test_images: int | None = None
    """Test images that are measured before and after; None: as many as the settings ask for."""

    @property
    def seconds(self) -> float:
        """Return the seconds until the end: training and measuring."""
        return self.training_seconds + self.measuring_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file, without the recipe, which has a file of its own.

        Returns:
            The other fields, by their names.
        """
        return {
            "objective": self.objective,
            "epochs": self.epochs,
            "step_seconds": self.step_seconds,
            "training_seconds": self.training_seconds,
            "measuring_seconds": self.measuring_seconds,
            "reasons": list(self.reasons),
            "train_size": self.train_size,
            "test_images": self.test_images,
        }


def make_plan(
    config: HardenConfig,
    model: nn.Module,
    step_seconds: Mapping[str, float],
    *,
    train_images: int,
    check_seconds: float,
    measuring_seconds: float,
    spent: float = 0.0,
    settings: Mapping[str, Any] | None = None,
    test_images: int | None = None,
    test_reason: str | None = None,
) -> Plan:
    """Choose the objective and the number of epochs.

    Args:
        config: what the user asked for.
        model: decides the optimizer: SGD where there is BatchNorm, else AdamW.
        step_seconds: what a step of each candidate costs, and of what follows it where `keep` asks for that.
        train_images: images that there are to train on.
        check_seconds: what the check after each epoch takes.
        measuring_seconds: what comes after the training takes, see `closing_seconds`.
        spent: seconds of the budget that are gone already.
        settings: further fields of the recipe, such as `data` and `model`.
        test_images: how many are measured before and after.
        test_reason: why so many, in one line.

    Returns:
        The plan, with one reason a decision.

    Raises:
        ClatError: not even one epoch of the cheapest candidate fits.
    """
    count = min(config.batch_size, train_images)
    whole = steps = train_images // count
    names = [name for name in step_seconds if name in CANDIDATES]

    def training(name: str, epochs: int, steps: int = whole) -> float:
        return steps * _step_each_epoch(config, name, step_seconds, epochs) + epochs * check_seconds

    if config.epochs is not None:
        left = None
        fits = dict.fromkeys(names, config.epochs)
    else:
        left = config.budget_seconds * MARGIN - spent - measuring_seconds
        least = min(step_seconds.values()) * whole + check_seconds  # an epoch takes so long at least
        range_ = range(1, max(int(left / least), 0) + 1)
        fits = {name: bisect_right(range_, left, key=partial(training, name)) for name in names}
    name, why = _chosen(config, fits)
    epochs = fits[name]
    if epochs < 1:
        cheapest = min(names, key=lambda one: training(one, 1))
        before = training(cheapest, 1) + spent
        more = MARGIN - TEST_SHARE - MASKING_SHARE  # with more time more is measured
        needed = max((before + measuring_seconds) / MARGIN, before / more)
        raise ClatError(
            f"the budget is too small for one epoch: {cheapest}, the cheapest, needs {duration(needed)} in all "
            "here; give more time, fewer images (--train-size), a narrower network, or fewer test images "
            "(--num-samples)"
        )
    if left is not None and left - training(name, epochs) > UNUSED * left:
        more_checks = (epochs + 1) * check_seconds
        fewer = int((left - more_checks) / _step_each_epoch(config, name, step_seconds, epochs + 1))
        if fewer >= 1:
            epochs, steps = epochs + 1, fewer
            why += f"; {epochs} epochs of {steps * count:,} of the {train_images:,} images fill the budget"
    train_size = steps * count if steps < whole else None
    settings = dict(settings or {})
    if train_size is not None:
        settings["data"] = {**settings.get("data", {}), "train_size": train_size}
    recipe = harden_recipe(config, name, epochs, convolutional=bool(batch_norms(model)), settings=settings)
    reasons = (
        why,
        precision_reason(config.precision, recipe.resolved().engine),
        f"eps rises from {EPS_FROM:g} to {config.threat.text} over the first {EPS_UNTIL:.0%} of the epochs",
        "weights are averaged (EMA) and labels smoothed, which cost next to nothing",
        _keeping(config.keep, epochs),
        *([] if test_reason is None else [test_reason]),
    )
    return Plan(
        objective=name,
        epochs=epochs,
        step_seconds=dict(step_seconds),
        training_seconds=training(name, epochs, steps),
        measuring_seconds=measuring_seconds,
        recipe=recipe,
        reasons=reasons,
        train_size=train_size,
        test_images=test_images,
    )


def _step_each_epoch(config: HardenConfig, name: str, step_seconds: Mapping[str, float], epochs: int) -> float:
    """Return the seconds of a step in each of the epochs, those that tune critical layers among them."""
    tuning = tuning_epochs(epochs) if config.keep in TUNING else 0
    return (epochs - tuning) * step_seconds[name] + (tuning * step_seconds[config.keep] if tuning else 0.0)


def _chosen(config: HardenConfig, fits: Mapping[str, int]) -> tuple[str, str]:
    """Return a candidate's name, and why it is taken."""
    if config.objective is not None:
        return config.objective, f"{config.objective}, as asked for: {counted(fits[config.objective], 'epoch')}"
    worth = [name for name in fits if fits[name] >= CANDIDATES[name].worth_from]
    if not worth:
        return min(fits, key=lambda name: -fits[name]), "the cheapest candidate, as no other fits"
    name = max(worth, key=lambda one: CANDIDATES[one].worth_from)
    dearer = [one for one in fits if CANDIDATES[one].worth_from > CANDIDATES[name].worth_from]
    beside = [
        f"{one} would get {counted(fits[one], 'epoch')} and needs {CANDIDATES[one].worth_from}"
        for one in dearer[:1]
    ]
    return name, f"{name} for {counted(fits[name], 'epoch')}" + (f"; {beside[0]}" if beside else "")


def precision_reason(asked: str, engine: EngineConfig) -> str:
    """Return what the training computes in, in one line, and why.

    Args:
        asked: the precision that the user named, or auto.
        engine: the resolved one of the recipe.

    Returns:
        The line.
    """
    name = "bfloat16" if engine.precision == "bf16-mixed" else "float32"
    if asked != "auto":
        why = "as asked for"
    elif engine.emulates:
        why = "as this device has no bfloat16 units"
    else:
        why = "which this device computes in hardware" if name == "bfloat16" else "which the objective asks for"
    return f"trains in {name}, {why}"


def _keeping(keep: str, epochs: int) -> str:
    if keep == "best":
        return "against robust overfitting, the weights with the best robust accuracy on held-out images are kept"
    if keep == "last":
        return "the last weights are kept, as asked for"
    last = tuning_epochs(epochs)
    tunes = "the last epoch tunes" if last == 1 else f"the last {last} epochs tune"
    return (
        f"{tunes if last else 'with a single epoch, none tunes'} the critical layers alone ({keep}, as asked for)"
    )
