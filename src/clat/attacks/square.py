"""Square attack (Andriushchenko et al. 2020): random search that sees nothing but the model's logits.

Each query changes one square window of the best example so far and keeps the change if the margin grew. Few do, so
several queries are tried at once from the same example where a forward pass has room: those up to and with the
first that is kept count, the rest is forgotten and tried again from there. What is found is the same as one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.ball import Ball
from clat.attacks.noise import uniform
from clat.attacks.search import SearchState, run_search
from clat.attacks.square_windows import Window, profile, profiles, window_sides
from clat.core.errors import ClatError, unknown
from clat.core.threat_model import NORMS
from clat.core.units import Size, parse_size
from clat.network import modes
from clat.network.edge import Network, accept_network

AUTOATTACK_SCHEDULE = 10_000
"""AutoAttack makes 5,000 queries of these: its windows do not shrink below a 128th of their first area."""

BLOCK = 32
"""Random numbers are drawn for so many queries at once: hashing a few takes as long as hashing many."""

TRIED = 0.3
"""How many of the queries that are tried at once are expected to be kept: a seventh of all is in vain then."""


def square(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    schedule: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return adversarial examples found by the Square attack, which sees nothing but logits.

    A sample is left as soon as it is misclassified. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode, without
            gradients.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        norm: "linf" or "l2".
        queries: tries a sample, the first pattern included, at least 1.
        p_init: the share of the image that the first windows cover, in (0, 1].
        schedule: the number of queries over which windows shrink to their smallest; None: `queries`, the paper's;
            AutoAttack makes 5,000 of AUTOATTACK_SCHEDULE.
        seed: seed of the windows and signs.

    Returns:
        x_adv, of the shape of `x`, inside the ball exactly; samples that no query fooled come back at their largest
        margin.

    Raises:
        ClatError: for images outside [0, 1] or settings that make no sense.
    """
    model, x = accept_network(model, x, y)
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if queries < 1:
        raise ClatError(f"queries is {queries}: expected at least 1")
    if not 0 < p_init <= 1:
        raise ClatError(f"p_init is {p_init}: expected a share of the image in (0, 1]")
    if schedule is not None and schedule < 1:
        raise ClatError(f"schedule is {schedule}: expected at least 1 query")
    size = float(parse_size(eps, norm=norm))
    search = SquareSearch(model, size, norm, queries, p_init, schedule, seed)
    with modes.attack_mode(model, labels=y):
        return run_search(search, x, y)


def _read(image: Tensor, places: Tensor) -> Tensor:
    """Return the values at `places` (N * K, C, M) of each flattened sample of `image` (N, ...), for K tries."""
    count = len(image)
    pixels = image.view(count, 1, -1).expand(-1, len(places) // max(count, 1), -1)
    return pixels.gather(2, places.view(count, pixels.shape[1], -1)).view(places.shape)


Change = tuple[Tensor, Tensor]
"""A change of some pixels of each sample: where in the flattened image (N, C, M), and to what."""


@dataclass
class SquareSearch:
    """Search of the Square attack, sample by sample.

    The model is in attack mode; `eps` is in image units; `room` is the number of images that a forward pass may
    hold; the other settings are those of `square`. As in the paper a window may also touch the last row and column,
    which the authors' code leaves out (0.6 points of accuracy on one network), and every sample has windows of its
    own.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    queries: int = 5000
    p_init: float = 0.8
    schedule: int | None = None
    seed: int = 0
    room: int = 1

    def __post_init__(self) -> None:
        self._kept_of = 1.0  # the share of late queries that were kept, for speed alone

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state after the first query, a pattern over the whole image."""
        x = x.contiguous()
        state = {"y": y, "ids": ids, "t": torch.ones_like(y)}
        if self.norm == "linf":
            ball = Ball(x, self.eps)
            state["bounds"] = torch.stack([ball.low, ball.high], 1)
            state["adv"] = self._stripes(ball, ids)
        else:
            state["x"] = x
            state["adv"] = self._tiles(x, ids)
            state["squared_length"] = (state["adv"].double() - x.double()).flatten(1).square().sum(1)
        state["draws"] = torch.empty(len(x), BLOCK, 5 + x.shape[1], device=x.device)
        state["drawn_from"] = state["t"] - BLOCK
        state["value"] = self._query(state["adv"], y)
        state["done"] = ~(state["value"] <= 0) | (self.queries == 1)
        return state

    def step(self, state: SearchState) -> None:
        """Make the next queries of each sample, as many as are worth trying at once."""
        count = len(state["adv"])
        tries = self._tries(count)
        t = (state["t"][:, None] + torch.arange(tries, device=state["t"].device)).flatten()
        draws = self._draws(state, tries)
        squared_length, changes = (
            self._linf_change(state, t, draws) if self.norm == "linf" else (self._l2_changes(state, t, draws))
        )
        tried = state["adv"].repeat_interleave(tries, 0)
        for places, new in changes:
            tried.view(len(tried), -1).scatter_(1, places.flatten(1), new.flatten(1))
        value = self._query(tried, state["y"].repeat_interleave(tries)).view(count, tries)
        # NaN counts as better, to be seen in the end.
        better = (
            ~(value <= state["value"][:, None]) & (t < self.queries).view(count, tries) & ~state["done"][:, None]
        )
        place = better.long().argmax(1)
        kept = better.any(1).nonzero().squeeze(1)
        best = kept * tries + place[kept]
        state["adv"][kept], state["value"][kept] = tried[best], value.flatten()[best]
        if squared_length is not None:
            state["squared_length"][kept] = squared_length[best]
        used = torch.full_like(state["t"], tries)
        used[kept] = place[kept] + 1
        state["t"] = state["t"] + used
        state["done"] = ~(state["value"] <= 0) | (state["t"] >= self.queries)
        self._kept_of += 0.05 * (len(kept) / max(int(used.sum()), 1) - self._kept_of)

    def _tries(self, count: int) -> int:
        """Return how many queries of each sample to try at once."""
        most = min(self.room // max(count, 1), TRIED / max(self._kept_of, 1e-6), BLOCK)
        return max(int(most), 1)

    def _linf_change(self, state: SearchState, t: Tensor, draws: Tensor) -> tuple[None, list[Change]]:
        """Return the change of one window to +eps or to -eps in each channel.

        The paper adds +-2 eps and projects, which from anywhere in the ball ends on its surface.
        """
        shape = state["adv"].shape
        places = Window.drawn(draws[:, :2], self._sides(t, shape), shape).places(shape)
        upper = (draws[:, 5:] < 0.5).long()[:, :, None] * shape[1:].numel()
        return None, [(places, _read(state["bounds"], places + upper))]

    def _l2_changes(self, state: SearchState, t: Tensor, draws: Tensor) -> tuple[Tensor, list[Change]]:
        """Clear one window and put its length, and whatever else is left of eps, into another one.

        The other window keeps its direction, bent towards the profile. Returns the squared length that the
        perturbation then has, (N,) float64, and the changes. The length is kept up to date window by window, in
        float64 because the errors of thousands of updates add up.
        """
        x, adv = state["x"], state["adv"]
        channels = x.shape[1]
        sides = self._sides(t, x.shape)
        window, cleared = (Window.drawn(pair, sides, x.shape) for pair in (draws[:, 0:2], draws[:, 2:4]))
        places, cleared_places = window.places(x.shape), cleared.places(x.shape)
        base, old = _read(x, places), _read(adv, places)
        cleared_base, cleared_old = _read(x, cleared_places), _read(adv, cleared_places)

        once = window.once().flatten(1)[:, None]
        outside = (cleared.once() & ~window.contains(cleared)).flatten(1)[:, None]
        delta = old.double() - base.double()
        squared = (delta.square() * once).sum(2)
        freed = squared + ((cleared_old.double() - cleared_base.double()).square() * outside).sum(2)  # (N, C)

        sign = torch.where(draws[:, 5:] < 0.5, 1.0, -1.0)[:, :, None]
        bump = self._bumps(window, lying=draws[:, 4] < 0.5, shape=x.shape).flatten(1)[:, None]
        direction = bump * sign + delta / squared.sqrt().clamp_min(1e-12)[:, :, None]
        squared_length = state["squared_length"].repeat_interleave(len(t) // max(len(x), 1))
        left = self._radius(x) ** 2 - squared_length
        wanted = (freed + left[:, None] / channels).clamp_min(0).sqrt()
        length = (direction.square() * once).sum(2).sqrt().clamp_min(1e-12)
        new = (base + direction * (wanted / length)[:, :, None]).clamp(0, 1).to(x.dtype)
        used = ((new.double() - base.double()).square() * once).sum((1, 2))
        # The cleared window first: where the two overlap the other one holds.
        return squared_length - freed.sum(1) + used, [(cleared_places, cleared_base), (places, new)]

    def _draws(self, state: SearchState, tries: int) -> Tensor:
        """Return the next queries' uniform numbers, (N * tries, 5 + C).

        Five are for the windows, the others for the sign in each channel.
        """
        count, _, numbers = state["draws"].shape
        since = state["t"] - state["drawn_from"]
        if int(since.max()) + tries > BLOCK:
            queries = state["t"][:, None] + torch.arange(BLOCK, device=since.device)
            drawn = uniform(self.seed, state["ids"].repeat_interleave(BLOCK), queries.flatten(), numbers)
            state["draws"], state["drawn_from"] = drawn.view(count, BLOCK, numbers), state["t"]
            since = torch.zeros_like(since)
        places = (since[:, None] + torch.arange(tries, device=since.device))[:, :, None].expand(-1, -1, numbers)
        return state["draws"].gather(1, places).flatten(0, 1)

    def _query(self, adv: Tensor, y: Tensor) -> Tensor:
        """Return the margin of each sample, positive where it is misclassified."""
        with torch.no_grad():
            return losses.margin(self.model(adv), y)

    def _sides(self, t: Tensor, shape: torch.Size) -> Tensor:
        """Return the sides of the windows after `t` queries, the first pattern included."""
        schedule = self.schedule or self.queries
        table = window_sides(self.queries, schedule, self.p_init, *shape[2:], self.norm, t.device)
        return table[(t - 1).clamp_max(self.queries - 1)]  # samples that are done may be stepped on

    def _bumps(self, window: Window, lying: Tensor, shape: torch.Size) -> Tensor:
        """Return the profile for each sample's window, turned on its side where `lying`, (N, S, S)."""
        known = profiles(self.queries, self.schedule or self.queries, self.p_init, *shape[2:], lying.device)
        place = torch.searchsorted(known.sides, window.side)[:, None, None]
        rows, columns = window.offsets[:, :, None], window.offsets[:, None, :]
        lying = lying[:, None, None]
        return known.bumps[place, torch.where(lying, columns, rows), torch.where(lying, rows, columns)]

    def _radius(self, x: Tensor) -> float:
        """Return how long an l2 perturbation may be before x + delta is rounded, to be within eps after it."""
        rounding = torch.finfo(x.dtype).eps / 4 * math.sqrt(x[0].numel())
        return max(self.eps * (1 - 1e-6) - rounding, 0.0)

    def _stripes(self, ball: Ball, ids: Tensor) -> Tensor:
        """Return the l-inf attack's first example: stripes one pixel wide and upright, at +-eps in each channel."""
        count, channels, _, width = ball.x.shape
        plus = uniform(self.seed, ids, 0, channels * width) < 0.5
        return torch.where(plus.view(count, channels, 1, width), ball.high, ball.low)

    def _tiles(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return the l2 attack's first example: profiles a fifth of the image wide, upright or lying."""
        count, channels, height, width = x.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        tiles = rows * columns
        draws = uniform(self.seed, ids, 0, tiles * (1 + channels)) < 0.5
        upright = profile(side).to(x.device)
        shapes = torch.stack([upright, upright.T])[draws[:, :tiles].long()]
        signs = torch.where(draws[:, tiles:], 1.0, -1.0).view(count, channels, tiles, 1, 1)
        grid = (shapes[:, None] * signs).view(count, channels, rows, columns, side, side)
        pattern = grid.transpose(3, 4).reshape(count, channels, rows * side, columns * side)
        above, before = (height - rows * side) // 2, (width - columns * side) // 2
        pattern = F.pad(pattern, (before, width - columns * side - before, above, height - rows * side - above))
        return (x + pattern * (self._radius(x) / math.sqrt(tiles * channels))).clamp(0, 1).to(x.dtype)
