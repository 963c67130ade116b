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
    """Search of PGD, sample by sample.

    A sample whose iterate is one that it had before goes round in circles: the steps in between need not be made
    again, and the outcome is the same.

    Attributes:
        model: the network, in attack mode.
        eps: the radius of the ball, in image units.
        alpha: the length of a step, in image units.
        norm: "linf" or "l2".
        steps: gradient steps a sample, at least 1.
        random_start: begin at a uniform point of the ball rather than at x.
        seed: seed of the random start.
        loss: one of `clat.attacks.losses`, a function of logits (N, K) and labels (N,).
        verdict: "last", the iterate after all steps, as published PGD-k numbers have it; "any", the first iterate
            that fools the model, the random start included.
        leave: with "any", leave a sample there; otherwise it makes all its steps, and the last iterate is returned
            if it fools the model too, as it transfers better.
    """

    model: nn.Module
    eps: float
    alpha: float
    norm: str = "linf"
    steps: int = 20
    random_start: bool = True
    seed: int = 0
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    verdict: str = "last"
    leave: bool = True

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at x or at its random start."""
        ball = Ball(x, self.eps, self.norm)
        point = self._start_point(ball, ids) if self.random_start else x.clone()
        state = {
            "x": x,
            "y": y,
            "adv": point,
            "t": torch.zeros_like(ids),
            "landmark": point.clone(),
            "landmark_t": torch.zeros_like(ids),
            "done": torch.zeros_like(ids, dtype=torch.bool),
        }
        if self.verdict == "any":
            flag = "claim" if self.leave else "fooled"
            state[flag] = torch.zeros_like(state["done"])
            if not self.leave:
                state["example"] = point.clone()
        return state | ({"low": ball.low, "high": ball.high} if self.norm == "linf" else {})

    def step(self, state: SearchState) -> None:
        """Make one gradient step, and see from its forward pass which iterates before it fooled the model."""
        bounds = (state["low"], state["high"]) if self.norm == "linf" else None
        ball = Ball(state["x"], self.eps, self.norm, bounds=bounds)
        point = state["adv"].detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(point).float()
            gradient = input_gradient(self.loss(logits, state["y"]).sum(), point)
        moved = ball.project(torch.add(point.detach(), ball.unit(gradient), alpha=self.alpha))
        stays = state["done"]  # to be taken out; it has had its steps
        if self.verdict == "any":
            stays = self._note(state, logits.detach().argmax(1) != state["y"])
        state["adv"] = torch.where(_wide(stays, moved), state["adv"], moved)
        state["t"] = state["t"] + ~stays
        self._skip_circles(state)
        over = (state["t"] >= self.steps) & ~stays
        state["done"] = stays | over
        if "claim" in state:
            # The first step fools an undefended network on nearly all images: a verdict at once costs them less.
            state["claim"] = (state["t"] == 1) & ~state["done"]
        if "fooled" in state:
            self._choose(state, over)

    def _note(self, state: SearchState, wrong: Tensor) -> Tensor:
        """Keep what the iterates before this step were found to be; return which samples make it no more."""
        if self.leave:
            return state["done"] | wrong
        first = wrong & ~state["fooled"] & ~state["done"]
        state["example"] = torch.where(_wide(first, state["adv"]), state["adv"], state["example"])
        state["fooled"] = state["fooled"] | first
        return state["done"]

    def _choose(self, state: SearchState, over: Tensor) -> None:
        """Go back to the first example where the last iterate is none."""
        rows = (over & state["fooled"]).nonzero().squeeze(1)
        if len(rows):
            with torch.no_grad():
                right = self.model(state["adv"][rows]).argmax(1) == state["y"][rows]
            state["adv"][rows[right]] = state["example"][rows[right]]

    def _skip_circles(self, state: SearchState) -> None:
        """Find iterates that come back, and skip the steps that would only go round again.

        Brent's algorithm (1980): compare each iterate with the one after 0, 1, 2, 4, 8, ... steps. Of the rest only
        what is no whole circle remains to be made, or nothing where any iterate counts: all were seen.
        """
        t, since = state["t"], state["t"] - state["landmark_t"]
        again = (state["adv"] == state["landmark"]).flatten(1).all(1) & (since > 0)
        if again.any():
            all_seen = self.verdict == "any" and self.leave
            left = torch.zeros_like(t) if all_seen else (self.steps - t) % since.clamp_min(1)
            t = state["t"] = torch.where(again, self.steps - left, t)
        # After a jump the landmark stays, and what is left is less than a circle.
        renew = ((t & (t - 1)) == 0) & ~again & (since > 0)
        if renew.any():
            state["landmark"] = torch.where(_wide(renew, state["adv"]), state["adv"], state["landmark"])
            state["landmark_t"] = torch.where(renew, t, state["landmark_t"])

    def _start_point(self, ball: Ball, ids: Tensor) -> Tensor:
        """Return points that are uniform in the ball."""
        delta = ball_noise(self.seed, ids, 0, ball.x[0].numel(), self.norm, self.eps)
        return ball.project(ball.x + delta.view_as(ball.x))


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
