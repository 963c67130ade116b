"""FAB, the fast adaptive boundary attack (Croce and Hein 2020, Algorithm 1): the nearest adversarial example.

Every step linearises the decision boundary at the current point and moves to that hyperplane, slightly past it and
with a bias towards the clean image; a point that is adversarial is taken back towards the clean image. As in the
AutoAttack code there is no binary search between the clean image and the best example at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.ascent import check_found, input_gradient
from clat.attacks.ball import Ball
from clat.attacks.box_projection import step_to_hyperplane
from clat.attacks.noise import normal, uniform
from clat.attacks.search import SearchState, run_search
from clat.core.errors import ClatError, unknown
from clat.core.threat_model import NORMS
from clat.core.units import Size, parse_size
from clat.network import modes
from clat.network.edge import Network, accept_network

_NEARLY = 1 + 1e-5
"""Up to this multiple of eps a point counts as one that rounding pushed out of the ball."""

_RESTART_RADIUS = {"linf": 0.3, "l2": 1.0}
"""How far restarts may begin from the clean image where there is no eps: the defaults of the AutoAttack code."""


def fab(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size | None = None,
    norm: str = "linf",
    steps: int = 100,
    target: int | None = None,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    restart: int = 0,
    seed: int = 0,
) -> Tensor:
    """Return adversarial examples of least norm.

    The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: only examples exactly inside this ball count, and a sample is left at its first; a number in the unit
            of `x` or a fraction such as "8/255". None: all steps are made and the nearest example is returned.
        norm: "linf" or "l2".
        steps: linearisations of the boundary a sample, at least 1.
        target: linearise only the boundary to the `target`-th most likely wrong class of the clean image, counted
            from 1, which needs one backward pass a step. None: to all wrong classes, a pass for each.
        alpha_max: the largest weight of the clean image's projection, in [0, 1].
        eta: how far past the hyperplane to go, at least 1.
        beta: what is kept of an adversarial perturbation, in (0, 1].
        restart: 0 begins at x, other numbers at random points, which differ between them.
        seed: seed of these points.

    Returns:
        x_adv, of the shape of `x` and within [0, 1]; the image itself where no example was found.

    Raises:
        ClatError: for settings that make no sense, or logits or a gradient that are not finite, which must not pass
            for robustness.
    """
    model, x = accept_network(model, x, y)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    _check_settings(steps, target, alpha_max, eta, beta)
    size = None if eps is None else float(parse_size(eps, norm=norm))
    with modes.attack_mode(model, labels=y):
        search = FabSearch(model, size, norm, steps, target, alpha_max, eta, beta, restart, seed)
        found = run_search(search, x, y)
    check_found(found)
    return found


def _check_settings(steps: int, target: int | None, alpha_max: float, eta: float, beta: float) -> None:
    for name, value, good, expected in (
        ("steps", steps, steps >= 1, "at least 1"),
        ("target", target, target is None or target >= 1, "None or at least 1, the most likely wrong class"),
        ("alpha_max", alpha_max, 0 <= alpha_max <= 1, "a value in [0, 1]"),
        ("eta", eta, eta >= 1, "at least 1"),
        ("beta", beta, 0 < beta <= 1, "a value in (0, 1]"),
    ):
        if not good:
            raise ClatError(f"{name} is {value}: expected {expected}")


@dataclass
class FabSearch:
    """Search of FAB, sample by sample.

    The model is in attack mode; `eps` is in image units; the other settings are those of `fab`.
    """

    model: nn.Module
    eps: float | None = None
    norm: str = "linf"
    steps: int = 100
    target: int | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    restart: int = 0
    seed: int = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at x or at a random restart; images that are misclassified already are done."""
        with torch.no_grad():
            logits = self.model(x)
        if (self.target or 1) >= logits.shape[1]:
            raise ClatError(f"target is {self.target}: the model has {logits.shape[1]} classes, one of them right")
        state = {
            "x": x,
            "y": y,
            "adv": x.clone(),
            "point": self._restarted(x, ids) if self.restart else x,
            "t": torch.zeros_like(y),
            "done": (logits.argmax(1) != y) & logits.isfinite().all(1),
        }
        if self.eps is None:
            state["length"] = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        if self.target is not None:
            state["target"] = losses.runner_up(logits, y, self.target)
        return state

    def step(self, state: SearchState) -> None:
        """Move past the nearest linearised boundary, and back towards the clean image where that fooled the model.

        The state is changed in place.
        """
        x, y = state["x"], state["y"]
        rise, w = self._boundary(state)
        moved = self._move(x, state["point"], rise, w)
        with torch.no_grad():
            wrong = self.model(moved).argmax(1) != y
        length = self._length(moved - x)
        if self.eps is None:
            nearer = wrong & (length < state["length"]) & ~state["done"]
            state["adv"][nearer], state["length"][nearer] = moved[nearer], length[nearer]
        else:
            self._settle(state, moved, wrong & (length <= self.eps * _NEARLY) & ~state["done"])
        # NaN is the mark by which a broken gradient is seen in the end.
        broken = ~(length.isfinite() & rise.isfinite()) & ~state["done"]
        state["adv"] = state["adv"].masked_fill(_wide(broken, x), torch.nan)
        state["point"] = torch.lerp(x, moved, _wide(torch.where(wrong, self.beta, 1.0), x).to(x))
        state["t"] = state["t"] + 1
        state["done"] = state["done"] | broken | (state["t"] >= self.steps)

    def _settle(self, state: SearchState, moved: Tensor, near: Tensor) -> None:
        """End the search where a point in the ball, but for rounding, is still misclassified when put inside."""
        rows = near.nonzero().squeeze(1)
        if self.eps is None or not len(rows):
            return
        x, y = state["x"][rows], state["y"][rows]
        inside = Ball(x, self.eps, self.norm).project(moved[rows])
        with torch.no_grad():
            wrong = self.model(inside).argmax(1) != y
        good = wrong & (self._length(inside.double() - x.double()) <= self.eps)
        state["adv"][rows[good]] = inside[good]
        state["done"] = state["done"].index_fill(0, rows[good], True)

    def _move(self, x: Tensor, point: Tensor, rise: Tensor, w: Tensor) -> Tensor:
        """Return points past the hyperplane.

        They are the mean of the ways there from the point and, with weight alpha, from x.
        """
        flat_x, flat, w = x.flatten(1), point.flatten(1), w.flatten(1)
        from_point = step_to_hyperplane(flat, w, rise, self.norm)
        from_x = step_to_hyperplane(flat_x, w, rise + torch.linalg.vecdot(w, flat - flat_x), self.norm)
        near, far = (self._length(step).clamp_min(1e-8) for step in (from_point, from_x))
        alpha = (near / (near + far)).clamp_max(self.alpha_max)[:, None]
        moved, biased = from_point.mul_(self.eta).add_(flat), from_x.mul_(self.eta).add_(flat_x)
        return moved.lerp_(biased, alpha).clamp_(0, 1).view_as(x)

    def _boundary(self, state: SearchState) -> tuple[Tensor, Tensor]:
        """Return the nearest linearised boundary: how far z_k - z_y has to rise, (N,), and its gradient."""
        y, point = state["y"], state["point"].detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(point)
            classes = logits.shape[1]
            rivals = [state["target"]] if "target" in state else [(y + k) % classes for k in range(1, classes)]
            margins = [losses.targeted_margin(logits, y, rival) for rival in rivals]
            totals = [margin.sum() for margin in margins]
        nearest = torch.full_like(y, torch.inf, dtype=logits.dtype)
        rise, w = torch.zeros_like(nearest), torch.zeros_like(point, requires_grad=False)
        # One class after the other rather than the whole Jacobian at once, which could fill the memory.
        for number, (margin, total) in enumerate(zip(margins, totals, strict=True), start=1):
            gradient = input_gradient(total, point, again=number < len(margins))
            margin = margin.detach()
            if len(margins) == 1:
                return -margin, gradient
            distance = margin.abs() / (self._dual_length(gradient) + 1e-12)
            nearer = ~(distance >= nearest) & ~nearest.isnan()  # NaN comes first and stays
            nearest, rise = torch.where(nearer, distance, nearest), torch.where(nearer, -margin, rise)
            w[nearer] = gradient[nearer]
        return rise, w

    def _length(self, delta: Tensor) -> Tensor:
        flat = delta.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def _dual_length(self, w: Tensor) -> Tensor:
        """Return the norm in which the distance to a hyperplane is measured."""
        flat = w.flatten(1)
        return flat.abs().sum(1) if self.norm == "linf" else flat.norm(dim=1)

    def _restarted(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return points half the radius away from x in a random direction, in [0, 1]."""
        radius = 0.5 * (_RESTART_RADIUS[self.norm] if self.eps is None else self.eps)
        count = x[0].numel()
        if self.norm == "linf":
            direction = 2 * uniform(self.seed, ids, self.restart, count) - 1
        else:
            direction = normal(self.seed, ids, self.restart, count)
        direction = direction / self._length(direction)[:, None]
        return torch.clamp(x + radius * direction.view_as(x), 0, 1)


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
