"""Stochastic weight averaging under adversarial training: SWAAT (Hwang et al. 2020, arXiv:2009.10526), plain SWA.

SWAAT trains as usual for half of the run. From there on it averages the weights of short windows, and at the end of
each window goes on training *from the average*, with the BatchNorm statistics counted anew, which the attack in
evaluation mode needs. Plain SWA (Izmailov et al. 2018) leaves the running network alone and averages over all that
follows.

The method has no public code, and the paper was not at hand in full: 200 epochs, the last 100 of them averaged, a
window of 4, the replacement of the running network and the re-estimation are reported facts. What a window counts
(epochs here by default), the learning rate, which images the statistics come from (clean ones here) and what
becomes of the momentum (kept here) are our reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.network.exchange import copied, exchanged, move_towards, put, tensors_of
from clat.runtime.callback import StageCallback, StageContext
from clat.treatments.average import AverageCallback
from clat.treatments.base import Treatment
from clat.treatments.statistics import reestimate_on_training_batches


@dataclass(frozen=True, kw_only=True)
class SWA(Treatment):
    """Equal averages of the weights that training passes through, evaluated and saved in the network's place.

    To be named after the treatments that change the network's structure.
    """

    name: Literal["swa"] = "swa"
    apart: ClassVar[tuple[str, ...]] = ("ema",)  # both would be the network that is evaluated
    averages: ClassVar[bool] = True
    start: float = 0.5
    """Part of the stage before the first window."""
    window: int = 4
    """With `replace_running`: average the weights at the end of so many units, then begin again. Without: take the
    weights at the end of every so many units into the one average (SWA's cycle)."""
    unit: Literal["epochs", "batches"] = "epochs"
    """What a window counts; a batch is an optimizer step."""
    replace_running: bool = True
    """Go on training from each window's average (SWAAT); false: plain SWA."""
    bn_batches: int | None = None
    """Re-estimate BatchNorm statistics on so many training batches; None: on an epoch of them. Windows of a few
    batches are affordable only with a small number."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ClatError(f"swa.start is {self.start}: expected a part of the stage, from 0 to below 1")
        for what, number in (("window", self.window), ("bn_batches", self.bn_batches)):
            if number is not None and number < 1:
                raise ClatError(f"swa.{what} is {number}: expected at least 1")

    def first(self, units: int) -> int:
        """Return how many of the stage's units go by before the first window.

        Args:
            units: epochs or batches of the stage, as `unit` counts.

        Returns:
            start * units, rounded up.
        """
        return math.ceil(self.start * units - 1e-9)  # 0.07 * 100 is 7.000000000000001, and is to be 7

    def check(self, epochs: int) -> None:
        if self.unit == "epochs":
            self._require_room(epochs)

    def check_steps(self, steps: int) -> None:
        if self.unit == "batches":
            self._require_room(steps)

    def _require_room(self, units: int) -> None:
        room = units - self.first(units)
        if self.window > room:
            raise ClatError(
                f"swa.window is {self.window} {self.unit}, but only {room} of the stage's {units} are averaged: "
                "shorten it, start earlier or train longer"
            )

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return WindowAverage(self, context)


class WindowAverage(AverageCallback):
    """Average of the weights over a window: the mean of `scalars["averaged"]` states, empty with none."""

    def __init__(self, settings: SWA, context: StageContext) -> None:
        super().__init__(context)
        self.settings = settings
        by_epoch = settings.unit == "epochs"
        self.steps_per_unit = context.steps_per_epoch if by_epoch else 1
        steps = context.epochs * context.steps_per_epoch
        self.first = settings.first(steps // self.steps_per_unit)
        self.scalars = {"steps": 0, "averaged": 0}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        own = dict(self.model.named_parameters())
        self.average = {name: torch.empty_like(own[name]).copy_(value) for name, value in tensors.items()}

    def after_step(self) -> None:
        self.scalars["steps"] += 1
        units, rest = divmod(int(self.scalars["steps"]), self.steps_per_unit)
        since = units - self.first
        if rest or since <= 0:
            return
        window_ends = since % self.settings.window == 0
        if self.settings.replace_running or window_ends:
            self._take()
        if self.settings.replace_running and window_ends:
            self._replace()

    @torch.no_grad()
    def _take(self) -> None:
        """Take the weights as they stand into the average."""
        self.scalars["averaged"] += 1
        if not self.average:
            self.average = copied(dict(self.model.named_parameters()))
            return
        for name, parameter in self.model.named_parameters():
            move_towards(self.average[name], parameter, 1 / self.scalars["averaged"])

    def _replace(self) -> None:
        """Put the average in the network's place."""
        put(tensors_of(self.model), self.average)
        self.average, self.scalars["averaged"] = {}, 0
        self._statistics()

    def _statistics(self) -> None:
        reestimate_on_training_batches(self.context, self.updating, self.settings.bn_batches)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        if not self.average:  # before the first window, or at the end of one: the network itself
            yield
            return
        with exchanged(tensors_of(self.model), self.average):
            self._statistics()
            yield

    def on_stage_end(self) -> dict[str, Any]:
        if self.average:  # plain SWA, or a window that the end of the stage cuts short
            self._replace()
        return {}
