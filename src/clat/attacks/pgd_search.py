"""PGD as a search, for evaluations: its random start belongs to the sample, not to the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks.ascent import input_gradient
from clat.attacks.ball import Ball
from clat.attacks.losses import cross_entropy
from clat.attacks.noise import ball_noise
from clat.attacks.search import SearchState


@dataclass
class PgdSearch:
    """PGD whose verdict is its last iterate, as published PGD-k numbers have it: no sample leaves early. `eps`,
    `alpha` in image units; `loss`: of `clat.attacks.losses`; the model is in attack mode."""

    model: nn.Module
    eps: float
    alpha: float
    norm: str = "linf"
    steps: int = 20
    random_start: bool = True
    seed: int = 0
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        ball = Ball(x, self.eps, self.norm)
        state = {
            "x": x,
            "y": y,
            "adv": self._start_point(ball, ids) if self.random_start else x.clone(),
            "t": torch.zeros_like(ids),
            "done": torch.zeros_like(ids, dtype=torch.bool),
        }
        return state | ({"low": ball.low, "high": ball.high} if self.norm == "linf" else {})

    def step(self, state: SearchState) -> None:
        bounds = (state["low"], state["high"]) if self.norm == "linf" else None
        ball = Ball(state["x"], self.eps, self.norm, bounds=bounds)
        point = state["adv"].detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.loss(self.model(point).float(), state["y"]).sum()
            gradient = input_gradient(value, point)
        moved = ball.project(torch.add(point.detach(), ball.unit(gradient), alpha=self.alpha))
        waiting = state["done"].view(-1, *([1] * (moved.dim() - 1)))  # to be taken out; it has had its steps
        state["adv"] = torch.where(waiting, state["adv"], moved)
        state["t"] += 1
        state["done"] = state["t"] >= self.steps

    def _start_point(self, ball: Ball, ids: Tensor) -> Tensor:
        """Uniform in the ball."""
        delta = ball_noise(self.seed, ids, 0, ball.x[0].numel(), self.norm, self.eps)
        return ball.project(ball.x + delta.view_as(ball.x))
