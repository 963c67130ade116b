"""APGD in l1 (Croce and Hein 2021, Mind the box): sparse sign steps, projected onto ball and image range together.

A step moves the pixels with the steepest slopes alone, all by the same amount. How many it moves follows how many
the best point found so far differs in: a third less at every look. While their number falls fast the step is as
long as the radius, else it shrinks by a third, to a tenth of the radius at least. As small balls hold few ways, the
search begins in one three times as large, goes on from the best point in one twice as large, and ends in its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.apgd_losses import climb
from clat.attacks.ball import rounded_towards
from clat.attacks.l1_ball import project_l1
from clat.attacks.noise import normal
from clat.attacks.search import SearchState

RADII = (3.0, 2.0, 1.0)
"""Of the balls one after the other, in eps."""
SHARES = (0.3, 0.3)
"""Of the steps in all balls but the last."""
FEWER = 1.5
"""By how much fewer pixels a step moves than the best point differs in; and the step shrinks by as much."""
SHORTEST = 0.1
"""A step's least length, in radii."""
FAST = 0.95
"""The number of pixels falls fast below this share of what it was."""


def stages(steps: int) -> list[int]:
    """Return the number of steps in each ball; a ball without steps is left out.

    >>> stages(100), stages(1)
    ([30, 30, 40], [0, 0, 1])

    Args:
        steps: of the whole search, at least 1.

    Returns:
        One number for each of RADII; the last is at least 1.
    """
    first = [math.ceil(share * steps) for share in SHARES]
    while sum(first) >= steps:
        first = [max(count - 1, 0) for count in first]
    return [*first, steps - sum(first)]


@dataclass
class ApgdL1Search:
    """APGD in l1 as a search. The model is in attack mode; `eps`: the sum of all changes, in image units."""

    model: nn.Module
    eps: float
    steps: int = 100
    loss: str = "ce"
    target: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        counts = [(radius, count) for radius, count in zip(RADII, stages(self.steps), strict=True) if count]
        # A ball is entered by projecting into it, which is a call of its own but for the first.
        calls = [(radius, call == 0) for radius, count in counts for call in range(count + 1)]
        self.radii = torch.tensor([radius for radius, _ in calls], dtype=torch.float64) * self.eps
        self.entries = torch.tensor([entry for _, entry in calls])
        self.periods = torch.tensor([max(int(0.04 * count), 1) for _, count in counts for _ in range(count + 1)])
        self.own = int(sum(count + 1 for _, count in counts[:-1]))
        """The call from which on the ball is the search's own."""

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at a random point of the first ball."""
        with torch.no_grad():
            targeted = self.loss.endswith("targeted")
            target = losses.runner_up(self.model(x).float(), y, self.target) if targeted else y
        noise = normal(self.seed, ids, 0, x[0].numel()).view_as(x)
        n = len(x)
        place = torch.zeros(n, dtype=torch.int64, device=x.device)
        point = self._inside(x, noise, place)
        value, gradient, wrong = climb(self.model, point, y, target, self.loss)
        zeros = torch.zeros_like(value)
        state: SearchState = {
            "x": x, "y": y, "target": target, "adv": point.clone(), "point": point, "gradient": gradient,
            "best": point.clone(), "best_gradient": gradient.clone(), "best_value": value,
            "moved": zeros.clone(), "step_size": zeros.clone(), "pixels": zeros.clone(),
            "since": place.clone(), "t": place + 1, "done": wrong & (self.own == 0),
        }  # fmt: skip
        self._enter(state, torch.ones_like(wrong), place)
        return state

    def step(self, state: SearchState) -> None:
        """Take one step of every sample, or enter the next ball, in place."""
        x, t, done = state["x"], state["t"], state["done"]
        last = len(self.radii) - 1
        entering = self.entries.to(t.device)[t.clamp_max(last)]
        change = torch.where(_wide(entering, x), state["best"] - x, state["point"] - x + self._sparse_step(state))
        moved = self._inside(x, change, t.clamp_max(last))
        value, gradient, wrong = climb(self.model, moved, state["y"], state["target"], self.loss)
        state["point"], state["gradient"] = moved, gradient
        better = ((value > state["best_value"]) | entering).nonzero().squeeze(1)
        for name, new in (("best", moved), ("best_gradient", gradient), ("best_value", value)):
            state[name][better] = new[better]
        self._enter(state, entering, t.clamp_max(last))
        self._adapt(state, ~entering, t.clamp_max(last))
        inside = t >= self.own
        exhausted = (t >= last) & ~done
        for ending, found in ((exhausted, state["best"]), (wrong & inside & ~done, moved)):
            state["adv"][ending] = found[ending]
        state["done"] = done | (wrong & inside) | exhausted
        state["t"] = t + 1

    def _inside(self, x: Tensor, change: Tensor, place: Tensor) -> Tensor:
        """Return the point of the ball at a call, (N,) int64, that is nearest to x + change."""
        radius = self.radii.to(x.device)[place] * (1 - 1e-12)
        nearest = project_l1(x.flatten(1), change.flatten(1), radius)
        return rounded_towards(x.flatten(1), nearest).view_as(x)

    def _sparse_step(self, state: SearchState) -> Tensor:
        """Return the step along the signs of the steepest slopes, of l1 length `step_size`."""
        gradient = state["gradient"].flatten(1)
        count = gradient.shape[1]
        # The slopes' rank from below at which the steepest ones begin; the share of pixels is cut off as published.
        rank = ((1 - state["pixels"] / count) * count).long().clamp(0, count - 1)
        size = gradient.abs()
        least = size.sort(1).values.gather(1, rank[:, None])
        signs = torch.where(size >= least, gradient.sign(), torch.zeros_like(gradient))
        length = signs.abs().sum(1, keepdim=True) + 1e-10
        return (signs * (state["step_size"][:, None] / length)).view_as(state["x"])

    def _enter(self, state: SearchState, entering: Tensor, place: Tensor) -> None:
        """Set what a ball begins with, where samples enter one."""
        moved = _differing(state["point"], state["x"])
        radius = self.radii.to(moved.device)[place].to(moved.dtype)
        for name, new in (("moved", moved), ("pixels", moved / FEWER), ("step_size", radius)):
            state[name] = torch.where(entering, new, state[name])
        state["since"] = torch.where(entering, torch.zeros_like(state["since"]), state["since"])

    def _adapt(self, state: SearchState, stepped: Tensor, place: Tensor) -> None:
        """At every look, count the pixels that the best point differs in, and set the next steps by them."""
        state["since"] = state["since"] + stepped.long()
        due = stepped & (state["since"] >= self.periods.to(place.device)[place])
        if not due.any():
            return
        moved = _differing(state["best"], state["x"])
        radius = self.radii.to(moved.device)[place].to(moved.dtype)
        fast = moved < FAST * state["moved"]
        size = torch.where(fast, radius, torch.maximum(state["step_size"] / FEWER, SHORTEST * radius))
        for name, new in (("step_size", size), ("pixels", moved / FEWER), ("moved", moved)):
            state[name] = torch.where(due, new, state[name])
        back = (due & fast).nonzero().squeeze(1)
        for name, best in (("point", "best"), ("gradient", "best_gradient")):
            state[name] = state[name].index_copy(0, back, state[best][back])
        state["since"] = torch.where(due, torch.zeros_like(state["since"]), state["since"])


def _differing(point: Tensor, x: Tensor) -> Tensor:
    """Return how many values each point differs in from x, (N,) float32."""
    return (point != x).flatten(1).sum(1).float()


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
