"""Auto-PGD (Croce and Hein 2020, Algorithm 1): PGD with momentum that halves its own step size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat import modes
from clat.attacks import losses
from clat.attacks.ball import Ball
from clat.attacks.noise import normal, uniform
from clat.attacks.search import State, run_search
from clat.data.checks import check_images, check_labels
from clat.errors import ClatError, unknown
from clat.units import Size, parse_size

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, K), y (N,), target (N,)) -> the value to increase, (N,)."""

LOSSES: dict[str, Loss] = {
    "ce": lambda logits, y, target: losses.cross_entropy(logits, y),
    "dlr": lambda logits, y, target: losses.dlr(logits, y),
    "dlr-targeted": losses.targeted_dlr,
    "margin-targeted": losses.targeted_margin,
}


def apgd(
    model: nn.Module,
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
    """APGD from a random start; a sample is left as soon as it is misclassified.

    `x`: (N, C, H, W) float in [0, 1]; `y`: (N,) int64; `eps`: as for `pgd`; `norm`: "linf" or "l2"; `loss`: "ce",
    "dlr", or the targeted "dlr-targeted" and "margin-targeted", which aim at the `target`-th most likely wrong class
    of the clean image; `rho`: the share of rising steps below which the step size is halved. Returns x_adv inside
    the ball exactly; samples that no step fooled come back at their best loss. Leaves no trace in the model.
    """
    check_images(x)
    check_labels(y, None, len(x))
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    if steps < 1:
        raise ClatError(f"steps is {steps}: expected at least 1")
    with modes.for_attack(model):
        search = ApgdSearch(
            model, float(parse_size(eps, norm=norm)), norm=norm, steps=steps, loss=loss, rho=rho, target=target, seed=seed
        )
        return run_search(search, x, y)


def checkpoints(steps: int) -> list[int]:
    """For each step, the length of the window that ends with it, or 0: 22 % of the steps, then 3 % shorter each
    time, down to 6 %."""
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
    """APGD as a search. The model is in attack mode; `eps` in image units."""

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

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> State:
        ball = Ball(x, self.eps, self.norm)
        adv = self._random_start(ball, ids)
        with torch.no_grad():
            needs_target = self.loss.endswith("targeted")
            target = losses.runner_up(self.model(x), y, self.target) if needs_target else y
        value, gradient, wrong = self._evaluate(adv, y, target)
        n = len(x)
        state = {
            "x": x,
            "y": y,
            "target": target,
            "adv": adv,
            "point": adv,
            "previous_point": adv,
            "gradient": gradient,
            "best": adv,
            "best_gradient": gradient,
            "best_value": value,
            "value_at_check": value.clone(),
            "previous_value": torch.zeros_like(value),  # the reference compares the first value with zero too
            "rises": torch.zeros(n, dtype=torch.int64, device=x.device),
            "halved_last": torch.ones(n, dtype=torch.bool, device=x.device),
            "step_size": torch.full((n,), 2 * self.eps, device=x.device),
            "t": torch.zeros(n, dtype=torch.int64, device=x.device),
            "done": wrong,
        }
        return state | ({"low": ball.low, "high": ball.high} if self.norm == "linf" else {})

    def step(self, state: State) -> None:
        x, point = state["x"], state["point"]
        ball = Ball(x, self.eps, self.norm, bounds=(state["low"], state["high"]) if self.norm == "linf" else None)
        size = _wide(state["step_size"], x)
        inertia = _wide(torch.where(state["t"] > 0, 0.25, 0.0), x)
        ahead = ball.project(point + size * ball.unit(state["gradient"]))
        moved = ball.project(
            point + (ahead - point) * (1 - inertia) + (point - state["previous_point"]) * inertia
        )
        value, gradient, wrong = self._evaluate(moved, state["y"], state["target"])
        better = value > state["best_value"]
        state["previous_point"], state["point"], state["gradient"] = point, moved, gradient
        for name, new in (("best", moved), ("best_gradient", gradient), ("best_value", value)):
            state[name] = torch.where(_wide(better, new), new, state[name])
        state["rises"] = state["rises"] + (value > state["previous_value"])
        state["previous_value"] = value
        self._adapt(state)
        state["t"] = state["t"] + 1
        fresh = wrong & ~state["done"]
        state["adv"] = torch.where(
            _wide(fresh, moved), moved, torch.where(_wide(state["done"], moved), state["adv"], state["best"])
        )
        state["done"] = state["done"] | wrong | (state["t"] >= self.steps)

    def _adapt(self, state: State) -> None:
        """At the end of a window: halve the step and go back to the best point if too few steps rose, or if the
        best value stands still since the last window and the step was not halved then."""
        window = self.windows.to(state["t"].device)[state["t"].clamp_max(self.steps - 1)]
        due = window > 0
        few_rises = state["rises"] <= self.rho * window
        stuck = ~state["halved_last"] & (state["value_at_check"] >= state["best_value"])
        halve = due & (few_rises | stuck)
        state["halved_last"] = torch.where(due, halve, state["halved_last"])
        state["value_at_check"] = torch.where(due, state["best_value"], state["value_at_check"])
        state["rises"] = torch.where(due, 0, state["rises"])
        state["step_size"] = torch.where(halve, state["step_size"] / 2, state["step_size"])
        wide = _wide(halve, state["point"])
        state["point"] = torch.where(wide, state["best"], state["point"])
        state["gradient"] = torch.where(wide, state["best_gradient"], state["gradient"])

    def _random_start(self, ball: Ball, ids: Tensor) -> Tensor:
        """On the ball's surface in some direction, as in the reference, rather than uniform in it."""
        count = ball.x[0].numel()
        if self.norm == "linf":
            direction = 2 * uniform(self.seed, ids, 0, count) - 1
            length = direction.abs().amax(1, keepdim=True)
        else:
            direction = normal(self.seed, ids, 0, count)
            length = direction.norm(dim=1, keepdim=True)
        return ball.project(ball.x + self.eps * (direction / length).view_as(ball.x))

    def _evaluate(self, point: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each sample, its gradient, and which samples are misclassified."""
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(point)
            value = LOSSES[self.loss](logits, y, target)
            (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), gradient, logits.detach().argmax(1) != y


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
