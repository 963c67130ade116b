"""CURE's revision network: a copy of the weights that follows them slowly and now and then.

The copy follows by Eq. 7 of Gowda et al. 2024, and the network is held to its outputs by Eq. 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clat.core.seeds import generator
from clat.network import modes
from clat.network.exchange import copied, move_towards, put, tensors_of
from clat.network.swap import swapped
from clat.runtime.callback import StateDict


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Settings of when and how far the copy follows.

    Attributes:
        decay: d of Eq. 7, from 0 to 1.
        rate: r, the probability that a step is followed.
        rate_end: r at the end, to which it goes linearly; None: it is constant.
        ramp: follow faster at first.
        steps: steps of the stage.
        seed: seed of the draws.
    """

    decay: float = 0.999
    rate: float = 0.2
    rate_end: float | None = None
    ramp: bool = False
    steps: int = 1
    seed: int = 0

    def follows(self, step: int) -> bool:
        """Return whether the copy follows at a step: u < r, with u drawn for the step alone.

        Args:
            step: counted from 0.

        Returns:
            True with probability r.
        """
        end = self.rate if self.rate_end is None else self.rate_end
        rate = self.rate + (end - self.rate) * min(step / self.steps, 1.0)
        u = torch.rand((), generator=generator(self.seed, "revise", step), dtype=torch.float64)
        return u.item() < rate

    def decay_at(self, step: int) -> float:
        """Return d at a step, or with `ramp` the smaller min(1 - 1 / (t + 1), d) at the t-th step.

        Args:
            step: counted from 0, so that t = step + 1.

        Returns:
            What is kept of the copy, from 0 to 1.
        """
        return min(1 - 1 / (step + 2), self.decay) if self.ramp else self.decay


@dataclass
class Revision:
    """Revision network theta_rev.

    It is run through `model` itself with `tensors`, a copy of the parameters and buffers by name that shares no
    storage with them, in place of the model's own, so that its passes are counted and follow whatever structure the
    model has. Nothing of the model changes.
    """

    model: nn.Module
    pace: Pace
    batch_norm: str = "batch"
    """`batch`: BatchNorm that normalises by the batch in the model does so here too; `stored`: by statistics that
    follow the model's as the weights do."""
    tensors: StateDict = field(default_factory=dict)

    def start(self) -> None:
        """Set theta_rev = theta, unless it has begun already."""
        if not self.tensors:
            self.tensors = copied(tensors_of(self.model))

    @property
    def statistics(self) -> StateDict:
        """Return the copies of buffers, which follow each process's own."""
        return {name: self.tensors[name] for name, _ in self.model.named_buffers()}

    def restore(self, saved: StateDict) -> None:
        """Go on from saved tensors.

        Args:
            saved: tensors by name, which may lie on another device.
        """
        self.tensors = copied(tensors_of(self.model))
        put(self.tensors, saved)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the copy's output, which passes no gradient.

        Args:
            x: images, (N, C, H, W) in [0, 1].

        Returns:
            Logits, (N, K).
        """
        with self._as_teacher(), swapped(self.model, self.tensors):
            logits: Tensor = self.model(x)
        return logits

    @torch.no_grad()
    def follow(self, step: int) -> bool:
        """Move the copy, theta_rev <- d theta_rev + (1 - d) theta, with probability r (Eq. 7).

        Args:
            step: counted from 0.

        Returns:
            True if it moved.
        """
        if not self.pace.follows(step):
            return False
        weight = 1 - self.pace.decay_at(step)
        for name, value in tensors_of(self.model).items():
            move_towards(self.tensors[name], value, weight)  # exact where both agree, as constant buffers do
        return True

    @contextmanager
    def _as_teacher(self) -> Iterator[None]:
        """Put the model into evaluation mode, so without dropout, but for BatchNorm as `batch_norm` says.

        No statistics move.
        """
        by_batch = [bn for bn in modes.batch_norms(self.model) if bn.training and self.batch_norm == "batch"]
        with modes.restore_flags(self.model):
            self.model.eval()
            for bn in by_batch:
                bn.training, bn.track_running_stats = True, False
            yield
