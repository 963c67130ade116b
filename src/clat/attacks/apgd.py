"""Auto-PGD (Croce and Hein 2020, Algorithm 1): PGD with momentum that halves its own step size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.apgd_l1 import ApgdL1Search
from clat.attacks.apgd_losses import APGD_LOSSES, climb
from clat.attacks.ascent import check_found
from clat.attacks.ball import Ball
from clat.attacks.noise import normal, uniform
from clat.attacks.search import Search, SearchState, run_search
from clat.core.errors import ClatError, unknown
from clat.core.units import Size, parse_size
from clat.network import modes
from clat.network.edge import Network, accept_network
from clat.network.logits import check_logits


def apgd(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str = "linf",
    steps: int = 100,
    loss: str = "ce",
    rho: float = 0.75,
    target: int = 1,
    seed: int = 0,
) -> Tensor:
    """Return adversarial examples found by Auto-PGD from a random start.

    A sample is left as soon as it is misclassified. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        norm: "linf", "l2", or "l1", for which see `clat.attacks.apgd_l1`.
        steps: forward and backward passes a sample, at least 1.
        loss: "ce", "dlr", or the targeted "dlr-targeted" and "margin-targeted" (`APGD_LOSSES`).
        rho: the share of rising steps in a window below which the step size is halved; l1 has no use for it.
        target: the wrong class that a targeted loss aims at: the most likely one of the clean image (1), the second
            (2), ...
        seed: seed of the random start.

    Returns:
        x_adv, of the shape of `x`, inside the ball exactly; samples that no step fooled come back at their best
        loss.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a model without finite gradients.
    """
    model, x = accept_network(model, x, y)
    if loss not in APGD_LOSSES:
        raise unknown("loss", loss, APGD_LOSSES)
    if steps < 1:
        raise ClatError(f"steps is {steps}: expected at least 1")
    if target < 1:
        raise ClatError(f"target is {target}: expected at least 1, the most likely wrong class")
    with modes.attack_mode(model, labels=y):
        radius = float(parse_size(eps, norm=norm))
        settings: dict[str, Any] = {"steps": steps, "loss": loss, "target": target, "seed": seed}
        search: Search
        if norm == "l1":
            search = ApgdL1Search(model, radius, **settings)
        else:
            search = ApgdSearch(model, radius, norm=norm, rho=rho, **settings)
        found = run_search(search, x, y)
    check_found(found)
    return found


def checkpoints(steps: int) -> list[int]:
    """Return where the windows end at whose ends the step size is looked at.

    The first window is 22 % of the steps; each further one is shorter by 3 % of them, down to 6 %.

    Args:
        steps: steps of the attack, at least 1.

    Returns:
        For each step, the length of the window that ends with it, or 0.
    """
    window, smallest, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    table, since = [], 0
    for _ in range(steps):
        since += 1
        table.append(window if since == window else 0)
        if since == window:
            since, window = 0, max(window - shorter, smallest)
    return table


@dataclass
class ApgdSearch:
    """Search of APGD, sample by sample.

    The model is in attack mode; `eps` is in image units; the other settings are those of `apgd`.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    steps: int = 100
    loss: str = "ce"
    rho: float = 0.75
    target: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self.windows = torch.tensor(checkpoints(self.steps))

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at the random start, with the class that a targeted loss aims at."""
        ball = Ball(x, self.eps, self.norm)
        point = self._random_start(ball, ids)
        with torch.no_grad():
            needs_target = self.loss.endswith("targeted")
            target = losses.runner_up(self._logits(x, y), y, self.target) if needs_target else y
        value, direction, wrong = self._evaluate(ball, point, y, target)
        n = len(x)
        state = {
            "x": x,
            "y": y,
            "target": target,
            "adv": point.clone(),
            "point": point,
            "previous_point": point,
            "direction": direction,
            "best": point.clone(),
            "best_direction": direction.clone(),
            "best_value": value,
            "value_at_check": value.clone(),
            "previous_value": torch.zeros_like(value),  # the reference compares the first value with zero too
            "rises": torch.zeros(n, dtype=torch.int64, device=x.device),
            "halved_last": torch.ones(n, dtype=torch.bool, device=x.device),
            "step_size": torch.full((n,), 2 * self.eps, dtype=x.dtype, device=x.device),
            "t": torch.zeros(n, dtype=torch.int64, device=x.device),
            "done": wrong,
        }
        return state | ({"low": ball.low, "high": ball.high} if self.norm == "linf" else {})

    def step(self, state: SearchState) -> None:
        """Make one step with momentum, keep the best point, and adapt the step size at the end of a window."""
        x, point, done = state["x"], state["point"], state["done"]
        ball = Ball(x, self.eps, self.norm, bounds=(state["low"], state["high"]) if self.norm == "linf" else None)
        inertia = _wide(0.25 * (state["t"] > 0).to(x.dtype), x)
        moved = ball.project(torch.addcmul(point, _wide(state["step_size"], x), state["direction"]))
        moved = moved.sub_(point).mul_(1 - inertia).add_(point)
        moved = ball.project(moved.addcmul_(point - state["previous_point"], inertia))
        value, direction, wrong = self._evaluate(ball, moved, state["y"], state["target"])
        state["previous_point"], state["point"], state["direction"] = point, moved, direction
        better = (value > state["best_value"]).nonzero().squeeze(1)
        for name, new in (("best", moved), ("best_direction", direction), ("best_value", value)):
            state[name][better] = new[better]
        state["rises"] += value > state["previous_value"]
        state["previous_value"] = value
        self._adapt(state)
        state["t"] += 1
        exhausted = (state["t"] >= self.steps) & ~wrong & ~done
        for ending, found in ((wrong & ~done, moved), (exhausted, state["best"])):
            state["adv"][ending] = found[ending]
        state["done"] = done | wrong | exhausted

    def _adapt(self, state: SearchState) -> None:
        """At the end of a window: halve the step and go back to the best point if too few steps rose, or if the
        best value stands still since the last window and the step was not halved then."""
        self.windows = self.windows.to(state["t"].device)
        window = self.windows[state["t"].clamp_max(self.steps - 1)]
        due = window > 0
        if not due.any():
            return
        few_rises = state["rises"] <= self.rho * window
        stuck = ~state["halved_last"] & (state["value_at_check"] >= state["best_value"])
        halve = due & (few_rises | stuck)
        state["halved_last"][due] = halve[due]
        state["value_at_check"][due] = state["best_value"][due]
        state["rises"][due] = 0
        state["step_size"][halve] /= 2
        back = halve.nonzero().squeeze(1)
        for name, best in (("point", "best"), ("direction", "best_direction")):
            state[name] = state[name].index_copy(0, back, state[best][back])

    def _random_start(self, ball: Ball, ids: Tensor) -> Tensor:
        """Return points on the ball's surface in some direction, as in the reference, rather than uniform in it."""
        count = ball.x[0].numel()
        if self.norm == "linf":
            direction = 2 * uniform(self.seed, ids, 0, count) - 1
            length = direction.abs().amax(1, keepdim=True)
        else:
            direction = normal(self.seed, ids, 0, count)
            length = direction.norm(dim=1, keepdim=True)
        return ball.project(ball.x + self.eps * (direction / length).view_as(ball.x))

    def _evaluate(self, ball: Ball, point: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of each sample, the direction in which it rises, and which samples are misclassified."""
        value, gradient, wrong = climb(self.model, point, y, target, self.loss)
        return value, ball.unit(gradient), wrong

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.model(x)
        check_logits(logits, y)
        return logits if logits.dtype == torch.float64 else logits.float()


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
