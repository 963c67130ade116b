"""Constraint relaxation, CR (Pan et al., AAAI 2025, "Efficient Robustness Evaluation via Constraint Relaxation").

A targeted search that leaves the eps-ball for a while, so that it is not stuck in the corner it first ran into, and
that gives images up early which are clearly out of reach. It comes close to AutoAttack's verdict at a small part of
its passes, but **it is not AutoAttack**: where gradients are masked it is too optimistic by many points.

Each image goes through a program of its own, counted by `pair` and `t`:

* *Seeking* (`pair` = -1): ten sign steps on the cross-entropy; the most likely wrong classes where they end are the
  targets.
* *Searching* for one target after the other (`pair` = round * targets + place of the target), in cycles of 30 steps
  on z_target - z_y with a relaxation s that is halved from cycle to cycle. Ten steps of s * eps in a ball of
  (1 + s) * eps, where what counts is the point projected into the eps-ball; ten in the eps-ball; ten more there
  after the perturbation was shrunk to (1 - s) * eps and noise of s * eps was added.
* *Rounds*: a target is tried again only if its margin nearly vanished in the round before, or that of any wrong
  class in a relaxed part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.ascent import check_found, input_gradient
from clat.attacks.ball import Ball
from clat.attacks.noise import ball_noise
from clat.attacks.search import SearchState, run_search
from clat.core.errors import ClatError, unknown
from clat.core.threat_model import NORMS
from clat.core.units import Size, parse_size
from clat.network import modes
from clat.network.edge import Network, accept_network
from clat.network.logits import check_logits

PART = 10
"""Steps of seeking, and of each of the three parts of a cycle."""
CYCLE = 3 * PART
NEAR = 0.05
"""A target whose search brought a margin below this, in logits, is worth another round."""
LEAST_RELAXATION = 0.05


def constraint_relaxation(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str = "linf",
    targets: int = 3,
    steps: int = 150,
    rounds: int = 5,
    seed: int = 0,
) -> Tensor:
    """Return an adversarial example for each image, found by relaxing the constraint.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits (N, K).
        x: images, (N, C, H, W) float in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of x: a number or a fraction such as "8/255".
        norm: "linf", for which the attack was published, or "l2", where steps go along the normalised gradient and
            radii are lengths.
        targets: wrong classes to aim at, the most likely first; fewer than there are classes.
        steps: of the search for each target, in cycles of 30.
        rounds: how often a target is tried at most.
        seed: of the random starts and the noise.

    Returns:
        x_adv, (N, C, H, W), inside the ball exactly. An image is left at its first example; one that nothing fooled
        comes back where the ascent on the cross-entropy ended. The model is left without a trace.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a model without finite gradients.
    """
    model, x = accept_network(model, x, y)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    for name, value in (("targets", targets), ("steps", steps), ("rounds", rounds)):
        if value < 1:
            raise ClatError(f"{name} is {value}: expected at least 1")
    search = ConstraintRelaxationSearch(
        model, float(parse_size(eps, norm=norm)), norm, targets, steps, rounds, seed
    )
    with modes.attack_mode(model, labels=y):
        found = run_search(search, x, y)
    check_found(found)
    return found


@dataclass
class ConstraintRelaxationSearch:
    """Search of constraint relaxation, sample by sample.

    The model is in attack mode; `eps` is in image units; the other settings are those of `constraint_relaxation`.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    targets: int = 3
    steps: int = 150
    rounds: int = 5
    seed: int = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at a random start, before the targets are sought."""
        ball = Ball(x, self.eps, self.norm)
        count, device = len(x), x.device
        point = ball.project(x + self._noise(ids, torch.zeros_like(ids), x, self.eps))
        state = {
            "x": x,
            "y": y,
            "ids": ids,
            "adv": point.clone(),
            "point": point,
            "pair": torch.full_like(y, -1),
            "t": torch.zeros_like(y),
            "targets": torch.zeros(count, self.targets, dtype=torch.int64, device=device),
            # The targets of this round, and of the next one: all of them, in the first.
            "open": torch.zeros(count, self.targets, dtype=torch.bool, device=device),
            "near": torch.ones(count, self.targets, dtype=torch.bool, device=device),
            "done": torch.zeros(count, dtype=torch.bool, device=device),
        }
        return state | ({"low": ball.low, "high": ball.high} if self.norm == "linf" else {})

    def step(self, state: SearchState) -> None:
        """Make one step of each sample's program, and turn to the next target where one is over."""
        x, y, t, active = state["x"], state["y"], state["t"], ~state["done"]
        ball = Ball(x, self.eps, self.norm, bounds=(state["low"], state["high"]) if self.norm == "linf" else None)
        seeking, phase = state["pair"] < 0, t % CYCLE
        relaxation = self._relaxation(t).to(x.dtype)
        place = (state["pair"] % self.targets)[:, None]
        point = state["point"].detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self._logits(point, y)
            rise = losses.targeted_margin(logits, y, state["targets"].gather(1, place).squeeze(1))
            value = torch.where(seeking, losses.cross_entropy(logits, y), rise)
            direction = ball.unit(input_gradient(value.sum(), point))
        logits, rise, value, point = logits.detach(), rise.detach(), value.detach(), point.detach()

        inside = seeking | (phase == 0) | (phase > PART)
        # A loss that is NaN counts as success, so that its example comes back and is seen to be broken.
        fooled = (inside & (logits.argmax(1) != y)) | value.isnan()
        near = inside & ~seeking & (rise > -NEAR)
        example = point
        size = torch.where(seeking, torch.where(t == PART // 2, 0.25, 0.5).to(x.dtype), relaxation)
        moved = torch.addcmul(point, _wide(size * self.eps, x), direction)
        landed = ball.project(moved)
        relaxed = ~seeking & (phase < PART)
        if relaxed.any():
            looked = (relaxed & active & ~fooled).nonzero().squeeze(1)
            margin = self._margin(landed[looked], y[looked])
            near[looked] |= margin > -NEAR
            hit = looked[~(margin <= 0)]
            fooled[hit] = True
            example = point.index_copy(0, hit, landed[hit])
            landed = torch.where(_wide(relaxed, x), self._within(x, moved, self.eps * (1 + relaxation)), landed)
        state["near"] |= near[:, None] & torch.zeros_like(state["near"]).scatter(1, place, True)

        sought = seeking & (t >= PART)
        if sought.any():
            state["targets"][sought] = self._most_likely(logits[sought], y[sought])
        state["adv"] = torch.where(_wide(active & (fooled | sought), x), example, state["adv"])
        state["done"] = state["done"] | fooled
        given_up = (phase == 2 * PART - 1) & (-rise > relaxation)
        over = ~seeking & (given_up | (t + 1 >= self.steps))
        state["point"], state["t"] = landed, t + 1
        self._add_noise(state, ~seeking & ~over & ~state["done"])
        self._turn_to_next(state, ((sought | over) & ~state["done"]).nonzero().squeeze(1))

    def _relaxation(self, t: Tensor) -> Tensor:
        """Return s, (N,): a half in the first cycle, halved in each further one."""
        return (0.5 ** (t // CYCLE + 1)).clamp_min(LEAST_RELAXATION)

    def _turn_to_next(self, state: SearchState, rows: Tensor) -> None:
        """Let these samples, (M,) int64, begin with their next target, or end where there is none."""
        if not len(rows):
            return
        pair, near = state["pair"][rows], state["near"][rows]
        places = torch.arange(self.targets, device=rows.device)
        # -1, of those that have just found their targets, is the end of a round before the first.
        later = state["open"][rows] & (places > (pair % self.targets)[:, None])
        turn = ~later.any(1, keepdim=True)
        state["open"][rows] = torch.where(turn, near, state["open"][rows])
        state["near"][rows] = near & ~turn
        candidates = torch.where(turn, near, later)
        number = torch.div(pair, self.targets, rounding_mode="floor") + turn.squeeze(1).long()
        state["pair"][rows] = number * self.targets + candidates.long().argmax(1)
        ended = ~candidates.any(1) | (number >= self.rounds)
        state["done"][rows] = ended
        going = rows[~ended]
        state["t"][going] = 0
        x = state["x"][going]
        noise = self._noise(state["ids"][going], self._draw(state["pair"][going], 0), x, self.eps)
        state["point"][going] = Ball(x, self.eps, self.norm).project(x + noise)

    def _add_noise(self, state: SearchState, searching: Tensor) -> None:
        """Shrink the perturbation, and add noise, where the third part of a cycle begins."""
        rows = (searching & (state["t"] % CYCLE == 2 * PART)).nonzero().squeeze(1)
        if not len(rows):
            return
        x, t = state["x"][rows], state["t"][rows]
        relaxation = self._relaxation(t).to(x.dtype)
        shrunk = self._within(x, state["point"][rows], self.eps * (1 - relaxation))
        draw = self._draw(state["pair"][rows], t // CYCLE + 1)
        noise = self._noise(state["ids"][rows], draw, x, relaxation[:, None] * self.eps)
        state["point"][rows] = Ball(x, self.eps, self.norm).project(shrunk + noise)

    def _draw(self, pair: Tensor, number: Tensor | int) -> Tensor:
        """Return the place of random numbers, (N,) int64: of a pair its start (0), or a cycle's noise (1, ...)."""
        return (pair + 1) * (2 + self.steps // CYCLE) + number

    def _noise(self, ids: Tensor, draw: Tensor, like: Tensor, radius: Tensor | float) -> Tensor:
        """Return a uniform point of the ball of `radius`, one number or (N, 1), the shape of `like`."""
        return ball_noise(self.seed, ids, 2 * draw, like.shape[1:].numel(), self.norm, radius).view_as(like)

    def _within(self, x: Tensor, point: Tensor, radius: Tensor) -> Tensor:
        """Return the point brought into a ball of `radius`, (N,), and into [0, 1], up to rounding."""
        if self.norm == "linf":
            reach = _wide(radius, x)
            return torch.clamp(point, x - reach, x + reach).clamp_(0, 1)
        delta = point - x
        length = delta.flatten(1).norm(dim=1).clamp_min(1e-30)
        return (x + delta * _wide((radius / length).clamp_max(1), x)).clamp_(0, 1)

    def _most_likely(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the wrong classes to aim at, (N, targets) int64."""
        classes = logits.shape[1]
        if self.targets >= classes:
            raise ClatError(f"targets is {self.targets}: the model has {classes} classes, one of them right")
        return logits.scatter(1, y[:, None], -torch.inf).topk(self.targets, dim=1).indices

    def _margin(self, point: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return losses.margin(self._logits(point, y), y)

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.model(x)
        check_logits(logits, y)
        return logits.float()


def _wide(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
