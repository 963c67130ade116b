"""Learning rates as a function of how far the training is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clat.core.errors import ClatError
from clat.core.formatting import counted

_START, _END = 25.0, 1e4  # PyTorch's OneCycleLR: lr over the first rate, and the first rate over the last
_ONE_CYCLE_PEAK = 0.025  # of Wang et al. 2023

PARTICULAR = {
    "milestones": ("piecewise",),
    "factor": ("piecewise",),
    "peak": ("cyclic", "one-cycle"),
    "momentum": ("one-cycle",),
}
"""Fields that only these kinds read."""

_ROUNDING = 1e-9
"""Of a progress within an epoch, which is less than a step: 0.6 of three epochs is 0.19999999999999998 of them."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate over the epochs it spans, changing every step.

    Set on a recipe it spans all stages (the paper's cosine does); set on a stage, that stage.
    """

    kind: Literal["cosine", "piecewise", "cyclic", "one-cycle", "constant"] = "cosine"
    """`cosine`: lr to 0. `piecewise`: times `factor` at each of `milestones`. `cyclic`: 0 to lr at `peak`,
    then back to 0, both linear (Fast-AT). `one-cycle`: lr / 25 to lr at `peak`, then to lr / 250,000, both along a
    cosine (Wang et al. 2023, whose code takes these steps once an epoch)."""
    lr: float = 0.1
    """The largest learning rate."""
    epochs: int | None = None
    """Plan for this many epochs instead of those trained: the paper trains 100 of a 150-epoch cosine."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where a piecewise schedule steps down, as fractions of the span."""
    factor: float = 0.1
    peak: float | None = None
    """Where a cyclic or one-cycle schedule is highest, as a fraction of the span; None: 0.5, one-cycle 0.025."""
    start: float = 0.0
    """Epochs of the schedule that lie behind where it is taken up, and are part of its span: a stage's own goes on
    where another stopped."""
    momentum: tuple[float, float] | None = None
    """Largest and smallest momentum of a one-cycle, which falls while the rate rises and rises while it falls; of
    an optimizer that has betas its first one. None, and under other kinds: the optimizer's own. PyTorch's one-cycle
    has (0.95, 0.85)."""
    warmup: float = 0.0
    """Epochs, or a part of one, over which the rate first rises linearly from 0 to where the schedule begins, which
    then takes the rest of the span."""

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf):
            raise ClatError(f"schedule.lr is {self.lr}: expected a positive number")
        if not (0 < self.factor < math.inf):
            raise ClatError(f"schedule.factor is {self.factor}: expected a positive number, such as 0.1")
        if self.epochs is not None and self.epochs < 1:
            raise ClatError(f"schedule.epochs is {self.epochs}: expected at least 1")
        if self.peak is not None and not 0 < self.peak < 1:
            raise ClatError(f"schedule.peak is {self.peak}: expected a fraction between 0 and 1")
        if not 0 <= self.start < math.inf:
            raise ClatError(f"schedule.start is {self.start}: expected a number of epochs, at least 0")
        if not 0 <= self.warmup < math.inf:
            raise ClatError(f"schedule.warmup is {self.warmup}: expected a number of epochs, at least 0")
        if self.warmup > 0 and self.kind in ("cyclic", "one-cycle"):
            raise ClatError(
                f"schedule.warmup is {self.warmup}, but '{self.kind}' rises by itself: give schedule.peak"
            )
        if self.momentum is not None and not 0 <= self.momentum[1] <= self.momentum[0] < 1:
            raise ClatError(
                f"schedule.momentum is {list(self.momentum)}: expected the largest and the smallest, in [0, 1)"
            )
        if list(self.milestones) != sorted(self.milestones) or not all(0 <= m <= 1 for m in self.milestones):
            raise ClatError(f"schedule.milestones are {self.milestones}: expected rising fractions from 0 to 1")

    def check(self, span: int) -> None:
        """Raise an error unless the warm-up, and what is trained from `start` on, end before the schedule does.

        Args:
            span: epochs that are trained under the schedule; `epochs`, where it is set, is its length all the same.

        Raises:
            ClatError: the warm-up is as long as the schedule or longer, or training from `start` on leads beyond
                `epochs`.
        """
        if self.warmup >= _length(self, span):
            raise ClatError(
                f"schedule.warmup is {self.warmup}: the schedule has "
                f"{counted(f'{_length(self, span):g}', 'epoch')} in all"
            )
        if self.start > 0 and self.start + span > _length(self, span):
            raise ClatError(
                f"schedule.start is {self.start}: with {span} epochs to train, schedule.epochs has to be at least "
                f"{self.start + span:g} and not {self.epochs}; or leave it out"
            )

    def check_kind(self) -> None:
        """Raise an error for a setting that only other kinds read; a run from before may have one.

        Raises:
            ClatError: such as a peak of a cosine.
        """
        for name, kinds in PARTICULAR.items():
            usual = (getattr(Schedule, name), *([0.5] if name == "peak" else []))  # which runs of 0.1.0 wrote down
            if self.kind not in kinds and getattr(self, name) not in usual:
                raise ClatError(
                    f"schedule.{name} is given, which '{self.kind}' does not read: it belongs to "
                    f"{' and '.join(repr(kind) for kind in kinds)}; leave it out"
                )

    def check_rate(self, span: int) -> None:
        """Raise an error where a training that begins would go on at a rate of 0; one that has begun may end so.

        Args:
            span: epochs that are trained under the schedule.

        Raises:
            ClatError: `epochs` are fewer, and the rate is 0 at their end.
        """
        if span > _length(self, span) and learning_rate(self, span, span) == 0:
            raise ClatError(
                f"schedule.epochs is {self.epochs}: the rate is 0 from there on, and {span} epochs are trained; "
                "give that many or more, or leave it out"
            )


def learning_rate(schedule: Schedule, epochs_done: float, span: int) -> float:
    """Return the learning rate at a place of a schedule.

    Args:
        schedule: what the rate follows.
        epochs_done: epochs since the schedule began, 0 or more; a step counts as its fraction of an epoch.
        span: epochs that are trained under it, from `schedule.start` on; `schedule.epochs`, where it is set, is its
            length all the same.

    Returns:
        The rate, 0 or more; beyond the schedule's end it stays as it is there.
    """
    length = _length(schedule, span)
    epochs_done += schedule.start
    if epochs_done < schedule.warmup:
        return _rate(schedule, 0.0) * epochs_done / schedule.warmup
    return _rate(schedule, min((epochs_done - schedule.warmup) / (length - schedule.warmup), 1.0))


def momentum(schedule: Schedule, epochs_done: float, span: int) -> float | None:
    """Return the momentum at a place of a schedule.

    Args:
        schedule: what it follows.
        epochs_done: as for `learning_rate`.
        span: as for `learning_rate`.

    Returns:
        In [0, 1); None where the optimizer keeps its own.
    """
    if schedule.momentum is None or schedule.kind != "one-cycle":
        return None
    high, low = schedule.momentum
    progress = min((epochs_done + schedule.start) / _length(schedule, span), 1.0)
    return high - (high - low) * _wave(progress, schedule.peak or _ONE_CYCLE_PEAK)


def _length(schedule: Schedule, span: int) -> float:
    """Return the epochs of the whole schedule, of which `span` are trained."""
    return schedule.epochs or schedule.start + span


def _rate(schedule: Schedule, progress: float) -> float:
    """Return the rate of the schedule without its warm-up; `progress`: in [0, 1]."""
    if schedule.kind == "cosine":
        return schedule.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "piecewise":
        passed = sum(progress >= milestone - _ROUNDING for milestone in schedule.milestones)
        return schedule.lr * schedule.factor**passed
    if schedule.kind == "cyclic":
        return schedule.lr * _height(progress, schedule.peak or 0.5)
    if schedule.kind == "one-cycle":
        peak = schedule.peak or _ONE_CYCLE_PEAK
        low = schedule.lr / (_START if progress < peak else _START * _END)
        return low + (schedule.lr - low) * _wave(progress, peak)
    return schedule.lr


def _wave(progress: float, peak: float) -> float:
    """Return 0 at both ends and 1 at `peak`, along a cosine between."""
    return 0.5 * (1 - math.cos(math.pi * _height(progress, peak)))


def _height(progress: float, peak: float) -> float:
    """Return 0 at both ends and 1 at `peak`, linear between."""
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)
