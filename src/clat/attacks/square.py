"""Square attack (Andriushchenko et al. 2020): random search that sees nothing but the model's logits.

Each query changes one square window of the best example so far and keeps the change if the margin grew. Nothing
else of the image is touched: the new window is written into the example, and the old one written back where it was
better. So what a query costs beyond its forward pass is as small as its window.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat import modes
from clat.attacks import losses
from clat.attacks.ball import NORMS, Ball
from clat.attacks.noise import uniform
from clat.attacks.search import State, run_search
from clat.data.checks import check_images, check_labels
from clat.errors import ClatError, unknown
from clat.units import Size, parse_size

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries of 10,000 after which the share of the image that a window covers is halved (the paper's)."""

BLOCK = 16
"""Random numbers are drawn for so many queries at once: hashing a few takes as long as hashing many."""


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    seed: int = 0,
) -> Tensor:
    """Square attack with AutoAttack's settings; a sample is left as soon as it is misclassified.

    `x`: (N, C, H, W) float in [0, 1]; `y`: (N,) int64; `eps`: as for `pgd`; `norm`: "linf" or "l2"; `queries`:
    forward passes a sample, the first pattern included; `p_init`: the share of the image that the first windows
    cover, in (0, 1]. Returns x_adv inside the ball exactly; samples that no query fooled come back at their largest
    margin. Leaves no trace in the model. Raises ClatError for inputs outside [0, 1] or settings that make no sense.
    """
    check_images(x)
    check_labels(y, None, len(x))
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if queries < 1:
        raise ClatError(f"queries is {queries}: expected at least 1")
    if not 0 < p_init <= 1:
        raise ClatError(f"p_init is {p_init}: expected a share of the image in (0, 1]")
    search = SquareSearch(
        model, float(parse_size(eps, norm=norm)), norm=norm, queries=queries, p_init=p_init, seed=seed
    )
    with modes.for_attack(model):
        return run_search(search, x, y)


@cache
def window_sides(queries: int, p_init: float, height: int, width: int, norm: str, device: torch.device) -> Tensor:
    """The side of the window in pixels after 0, 1, ... queries, (queries,) int64; in l2 odd and at least 3."""
    sides = []
    for query in range(queries):
        share = p_init / 2 ** bisect_left(HALVINGS, int(query / queries * 10_000))
        side = round(math.sqrt(share * height * width))
        side = max(side, 1) if norm == "linf" else max(side, 3) | 1
        sides.append(min(side, height, width))
    return torch.tensor(sides, device=device)


def profile(side: int) -> Tensor:
    """The l2 attack's bump (the paper's eta), (side, side) float32 of length 1: a positive upper and a negative
    lower half, each highest at its centre and falling off with the distance d from it as sum_{k > d} 1 / k^2."""
    upper = _half_profile(side // 2, side)
    both = torch.cat([upper, -_half_profile(side - side // 2, side)])
    return both / both.norm()


def _half_profile(height: int, width: int) -> Tensor:
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    bump = terms.flip(0).cumsum(0).flip(0)[torch.maximum(rows[:, None], columns)]
    return bump / bump.norm().clamp_min(1e-12)


class Profiles(NamedTuple):
    """The profiles of all windows of an attack. `sides`: (P,) int64, rising; `bumps`: (P, S, S), zero outside."""

    sides: Tensor
    bumps: Tensor


@cache
def profiles(queries: int, p_init: float, height: int, width: int, device: torch.device) -> Profiles:
    sides = window_sides(queries, p_init, height, width, "l2", device).unique()
    largest = int(sides[-1])
    bumps = [F.pad(profile(side), (0, largest - side, 0, largest - side)) for side in sides.tolist()]
    return Profiles(sides, torch.stack(bumps).to(device))


class Window(NamedTuple):
    """A square window for each sample: `top`, `left`, `side`: (N,) int64.

    Windows of different sides share tensors of the largest, S: a smaller one's last row and column stand there
    again, so that writing it does no harm; `once` says what to count in a sum.
    """

    top: Tensor
    left: Tensor
    side: Tensor
    offsets: Tensor
    """(N, S) int64: 0, 1, ..., side - 1, side - 1, ..."""

    @classmethod
    def drawn(cls, draws: Tensor, side: Tensor, shape: torch.Size) -> Window:
        """Anywhere in images of `shape` (N, C, H, W). `draws`: (N, 2) in [0, 1)."""
        top = (draws[:, 0] * (shape[2] - side + 1)).long()
        left = (draws[:, 1] * (shape[3] - side + 1)).long()
        steps = torch.arange(int(side.max()), device=side.device)
        return cls(top, left, side, steps.minimum(side[:, None] - 1))

    def once(self) -> Tensor:
        """The places of the window that do not stand there again, (N, S, S) bool."""
        own = torch.arange(self.offsets.shape[1], device=self.side.device) < self.side[:, None]
        return own[:, :, None] & own[:, None, :]

    def places(self, shape: torch.Size) -> Tensor:
        """The window's places in the flattened sample, (N, C, S * S)."""
        rows, columns = self.top[:, None] + self.offsets, self.left[:, None] + self.offsets
        places = (rows[:, :, None] * shape[3] + columns[:, None, :]).flatten(1)
        channels = torch.arange(shape[1], device=places.device) * (shape[2] * shape[3])
        return places[:, None] + channels[:, None]

    def contains(self, other: Window) -> Tensor:
        """Which places of the other window lie in this one, (N, S, S) bool."""
        down = (other.top - self.top)[:, None] + other.offsets
        across = (other.left - self.left)[:, None] + other.offsets
        rows, columns = ((o >= 0) & (o < self.side[:, None]) for o in (down, across))
        return rows[:, :, None] & columns[:, None, :]


class Edit(NamedTuple):
    """A change of some pixels of each sample: where in the flattened image, what is there, what is tried. (N, M)"""

    places: Tensor
    old: Tensor
    new: Tensor

    @classmethod
    def of(cls, places: Tensor, old: Tensor, new: Tensor) -> Edit:
        return cls(places.flatten(1), old.flatten(1), new.flatten(1))


def _read(image: Tensor, places: Tensor) -> Tensor:
    """The values at `places` (N, C, M) of each flattened sample of `image` (N, ...)."""
    return image.view(len(image), -1).gather(1, places.flatten(1)).view(places.shape)


@dataclass
class SquareSearch:
    """The Square attack as a search; one step is one query. The model is in attack mode; `eps` in image units.

    Unlike the authors' code every sample has windows of its own, which may also touch the last row and column.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    queries: int = 5000
    p_init: float = 0.8
    seed: int = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> State:
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

    def step(self, state: State) -> None:
        squared_length, edits = self._linf_edit(state) if self.norm == "linf" else self._l2_edits(state)
        pixels = state["adv"].view(len(state["adv"]), -1)
        for edit in edits:
            pixels.scatter_(1, edit.places, edit.new)
        value = self._query(state["adv"], state["y"])
        keep = ~(value <= state["value"]) & ~state["done"]  # NaN too, to be seen in the end
        for edit in edits:
            pixels.scatter_(1, edit.places, torch.where(keep[:, None], edit.new, edit.old))
        state["value"] = torch.where(keep, value, state["value"])
        if squared_length is not None:
            state["squared_length"] = torch.where(keep, squared_length, state["squared_length"])
        state["t"] = state["t"] + 1
        state["done"] = ~(state["value"] <= 0) | (state["t"] >= self.queries)

    def _linf_edit(self, state: State) -> tuple[None, list[Edit]]:
        """One window that is at +eps or at -eps in each channel.

        The paper adds +-2 eps and projects, which from anywhere in the ball ends on its surface.
        """
        shape = state["adv"].shape
        draws = self._draws(state)
        window = Window.drawn(draws[:, :2], self._sides(state), shape)
        places = window.places(shape)
        upper = (draws[:, 5:] < 0.5).long()[:, :, None] * shape[1:].numel()
        new = _read(state["bounds"], places + upper)
        return None, [Edit.of(places, _read(state["adv"], places), new)]

    def _l2_edits(self, state: State) -> tuple[Tensor, list[Edit]]:
        """Clear one window and put its length, and whatever else is left of eps, into another one.

        The other window keeps its direction, bent towards the profile. Returns the squared length that the
        perturbation then has, (N,) float64, and the edits. The length is kept up to date window by window, in
        float64 because the errors of thousands of updates add up.
        """
        x, adv = state["x"], state["adv"]
        channels = x.shape[1]
        draws = self._draws(state)
        sides = self._sides(state)
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
        left = self._radius(x) ** 2 - state["squared_length"]
        wanted = (freed + left[:, None] / channels).clamp_min(0).sqrt()
        length = (direction.square() * once).sum(2).sqrt().clamp_min(1e-12)
        new = (base + direction * (wanted / length)[:, :, None]).clamp(0, 1).to(x.dtype)
        used = ((new.double() - base.double()).square() * once).sum((1, 2))
        # The cleared window first: where the two overlap the other one holds.
        edits = [Edit.of(cleared_places, cleared_old, cleared_base), Edit.of(places, old, new)]
        return state["squared_length"] - freed.sum(1) + used, edits

    def _draws(self, state: State) -> Tensor:
        """This query's uniform numbers, (N, 5 + C): five for the windows, one for the sign of each channel."""
        since = state["t"] - state["drawn_from"]
        if int(since.max()) >= BLOCK:
            count, _, numbers = state["draws"].shape
            queries = state["t"][:, None] + torch.arange(BLOCK, device=since.device)
            drawn = uniform(self.seed, state["ids"].repeat_interleave(BLOCK), queries.flatten(), numbers)
            state["draws"], state["drawn_from"] = drawn.view(count, BLOCK, numbers), state["t"]
            since = torch.zeros_like(since)
        return state["draws"][torch.arange(len(since), device=since.device), since]

    def _query(self, adv: Tensor, y: Tensor) -> Tensor:
        """The margin of each sample, positive where it is misclassified."""
        with torch.no_grad():
            return losses.margin(self.model(adv), y)

    def _sides(self, state: State) -> Tensor:
        height, width = state["adv"].shape[2:]
        table = window_sides(self.queries, self.p_init, height, width, self.norm, state["t"].device)
        return table[state["t"].clamp_max(self.queries - 1)]  # samples that are done may be stepped on

    def _bumps(self, window: Window, lying: Tensor, shape: torch.Size) -> Tensor:
        """The profile for each sample's window, turned on its side where `lying`, (N, S, S)."""
        known = profiles(self.queries, self.p_init, shape[2], shape[3], lying.device)
        place = torch.searchsorted(known.sides, window.side)[:, None, None]
        rows, columns = window.offsets[:, :, None], window.offsets[:, None, :]
        lying = lying[:, None, None]
        return known.bumps[place, torch.where(lying, columns, rows), torch.where(lying, rows, columns)]

    def _radius(self, x: Tensor) -> float:
        """How long an l2 perturbation may be before x + delta is rounded, so that afterwards it is within eps."""
        rounding = torch.finfo(x.dtype).eps / 4 * math.sqrt(x[0].numel())
        return max(self.eps * (1 - 1e-6) - rounding, 0.0)

    def _stripes(self, ball: Ball, ids: Tensor) -> Tensor:
        """The l-inf attack's first example: vertical stripes one pixel wide at +eps or -eps in each channel."""
        count, channels, _, width = ball.x.shape
        plus = uniform(self.seed, ids, 0, channels * width) < 0.5
        return torch.where(plus.view(count, channels, 1, width), ball.high, ball.low)

    def _tiles(self, x: Tensor, ids: Tensor) -> Tensor:
        """The l2 attack's first example: profiles a fifth of the image wide, upright or lying, of either sign."""
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
