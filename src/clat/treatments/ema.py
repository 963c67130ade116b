"""An exponential moving average of the weights, evaluated and saved in the place of the network.

Gowal et al. 2020 (and Rebuffi et al. 2021, Pang et al. 2022, Wang et al. 2023, who share its code) average after
every step, with a decay that starts small, and give the average the BatchNorm statistics of the network itself:

    a <- d_t a + (1 - d_t) w,    d_t = min(decay, (1 + t) / (10 + t)),

t counting the steps taken since a fortieth of the training; until then a is a copy of w. The other form in use
(Chen et al. 2021; Li & Spratling 2023 with IDBH) keeps d at 0.999 from the first step and re-estimates the
BatchNorm statistics of the average before each evaluation: decay = 0.999, start = 0, ramp = false,
batch_norm = "reestimated".
"""

from __future__ import annotations

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
class EMA(Treatment):
    """Average of the network's weights that moves with them, evaluated and kept. The next stage gets it, too.

    To be named after the treatments that change the network's structure or its first weights.
    """

    name: Literal["ema"] = "ema"
    shards: ClassVar[bool] = True
    apart: ClassVar[tuple[str, ...]] = ("swa",)  # both would be the network that is evaluated
    averages: ClassVar[bool] = True
    decay: float = 0.995
    """The largest share of the old average (tau of the released code)."""
    start: float = 0.025
    """Part of the stage during which the average is a copy of the weights."""
    ramp: bool = True
    """Let the decay grow from 0.1 as (1 + t) / (10 + t); false: `decay` from the start."""
    batch_norm: Literal["copied", "reestimated"] = "copied"
    """The average's BatchNorm statistics: the network's, or those of a pass over the training images at each
    evaluation. Statistics that the stage freezes stay as they are."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ClatError(f"ema.decay is {self.decay}: expected a share from 0 to below 1, such as 0.995")
        if not 0 <= self.start < 1:
            raise ClatError(f"ema.start is {self.start}: expected a part of the stage, from 0 to below 1")

    def decay_after(self, steps: int, of: int) -> float:
        """Return the share of the old average after a step.

        Args:
            steps: steps of the stage that are done.
            of: steps of the whole stage.

        Returns:
            d_t, from 0 to below 1; 0: the average is a copy.
        """
        since = steps - self.start * of
        if since < -1e-9:  # 0.07 * 100 is 7.000000000000001, and is to be 7
            return 0.0
        since = max(since, 0.0)
        return min(self.decay, (1 + since) / (10 + since)) if self.ramp else self.decay

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return MovingAverage(self, context)


class MovingAverage(AverageCallback):
    """Average of every parameter; what does not move, does not move in the average either."""

    def __init__(self, settings: EMA, context: StageContext) -> None:
        super().__init__(context)
        self.settings = settings
        self.steps = context.epochs * context.steps_per_epoch
        self.average = copied(dict(self.model.named_parameters()))
        self.scalars = {"steps": 0}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        put(self.average, tensors)

    @torch.no_grad()
    def after_step(self) -> None:
        self.scalars["steps"] += 1
        decay = self.settings.decay_after(int(self.scalars["steps"]), self.steps)
        for name, parameter in self.model.named_parameters():
            move_towards(self.average[name], parameter, 1 - decay)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        with exchanged(tensors_of(self.model), self.average):
            self._statistics()
            yield

    def on_stage_end(self) -> dict[str, Any]:
        put(tensors_of(self.model), self.average)
        self._statistics()
        return {}

    def _statistics(self) -> None:
        if self.settings.batch_norm == "reestimated":
            reestimate_on_training_batches(self.context, self.updating)
