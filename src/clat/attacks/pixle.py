"""Pixle (Pomponi et al. 2022): a black-box attack that copies pixels of the image to other places of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.noise import uniform
from clat.attacks.search import SearchState, run_search
from clat.core.errors import ClatError
from clat.network import modes
from clat.network.edge import Network, accept_network

Patch = tuple[tuple[int, int], tuple[int, int]]
"""The smallest and the largest extent of the source patch in pixels: ((least, most) wide, (least, most) high)."""


def pixle(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    restarts: int = 20,
    iterations: int = 10,
    patch: Patch = ((2, 10), (2, 10)),
    seed: int = 0,
) -> Tensor:
    """Return adversarial examples found by Pixle, which copies pixels of an image to other places of it.

    The settings are those of torchattacks with its random mapping, which is the strong one. A sample is left as
    soon as it is misclassified. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode, without
            gradients.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        restarts: how often the best image so far becomes the one that patches are put on, at least 1.
        iterations: patches of x that a restart tries, one forward pass each, whose pixels go to random places; the
            best of them is kept if it lowers the probability of y.
        patch: ranges of a patch's sides in pixels, ((least, most) wide, (least, most) high).
        seed: seed of the patches and places.

    Returns:
        x_adv, of the shape of `x`, each pixel of which is a pixel of x; samples that were not fooled come back at
        their lowest probability.

    Raises:
        ClatError: for images outside [0, 1] or settings that make no sense.
    """
    model, x = accept_network(model, x, y)
    for name, value in (("restarts", restarts), ("iterations", iterations)):
        if value < 1:
            raise ClatError(f"{name} is {value}: expected at least 1")
    for least, most in patch:
        if not 1 <= least <= most:
            raise ClatError(
                f"patch is {patch}: expected ((least, most) wide, (least, most) high), at least 1 pixel"
            )
    search = PixleSearch(model, restarts=restarts, iterations=iterations, patch=patch, seed=seed)
    with modes.attack_mode(model, labels=y):
        return run_search(search, x, y)


@dataclass
class PixleSearch:
    """Search of Pixle, sample by sample; one step is one forward pass.

    The model is in attack mode; the settings are those of `pixle`. As in torchattacks, a patch at the border is cut
    off there, a restart that found nothing while nothing was ever found goes on from its last try, and the patch is
    always one of x. Unlike there, pixels may also go to the last row and column, and the loss is the cross-entropy,
    which orders images as the probability does but does not saturate at 1.
    """

    model: nn.Module
    restarts: int = 20
    iterations: int = 10
    patch: Patch = ((2, 10), (2, 10))
    seed: int = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at x; images that are misclassified already are done."""
        value, wrong = self._query(x, y)
        return {
            "x": x,
            "y": y,
            "ids": ids,
            "adv": x,
            "base": x,  # what this restart's patches are put on
            "value": value,
            "improved": torch.zeros_like(wrong),
            "t": torch.zeros_like(y),
            "done": wrong,
        }

    def step(self, state: SearchState) -> None:
        """Try one patch of each sample, and begin its next restart where this one is over."""
        moved = self._move(state)
        value, wrong = self._query(moved, state["y"])
        better = ((value > state["value"]) | wrong) & ~state["done"]
        state["adv"] = torch.where(_wide(better), moved, state["adv"])
        state["value"] = torch.where(better, value, state["value"])
        state["improved"] = state["improved"] | better
        state["t"] = state["t"] + 1
        following = torch.where(_wide(state["improved"]), state["adv"], moved)
        state["base"] = torch.where(_wide(state["t"] % self.iterations == 0), following, state["base"])
        state["done"] = state["done"] | wrong | (state["t"] >= self.restarts * self.iterations)

    def _move(self, state: SearchState) -> Tensor:
        """Return `base` with the pixels of a patch of x copied into it."""
        x, base = state["x"], state["base"]
        count, channels, height, width = x.shape
        (_, widest), (_, highest) = self.patch
        draws = uniform(self.seed, state["ids"], state["t"], 4 + widest * highest)
        source, inside = self._patch(draws[:, :4], height, width)
        target = (draws[:, 4:] * (height * width)).long()
        # Two pixels of the patch may go to one place: the later one stays, as if they went one after the other.
        order = torch.where(inside, torch.arange(source.shape[1], device=x.device), -1)
        nobody = torch.full((count, height * width), -1, device=x.device)
        comer = nobody.scatter_reduce(1, target, order, "amax")
        origin = source.gather(1, comer.clamp_min(0))
        arriving = x.flatten(2).gather(2, origin[:, None].expand(-1, channels, -1))
        return torch.where((comer >= 0)[:, None], arriving, base.flatten(2)).view(x.shape)

    def _patch(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the patch's pixels as places in the flattened image, and which of them it really has; (N, M)."""
        rows, down = _extent(draws[:, 0], draws[:, 1], self.patch[1], height)
        columns, across = _extent(draws[:, 2], draws[:, 3], self.patch[0], width)
        source = rows[:, :, None] * width + columns[:, None, :]
        return source.flatten(1), (down[:, :, None] & across[:, None, :]).flatten(1)

    def _query(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's cross-entropy, and whether it is misclassified.

        NaN counts as that, to be seen in the end.
        """
        with torch.no_grad():
            logits = self.model(images)
            value = losses.cross_entropy(logits, y)
            return value, (logits.argmax(1) != y) | value.isnan()


def _extent(first: Tensor, length: Tensor, lengths: tuple[int, int], size: int) -> tuple[Tensor, Tensor]:
    """Return the patch's pixels along one axis, and which of them are in the patch and in the image; (N, most).

    `first`, `length`: (N,) in [0, 1), for where it starts and how long it is, in `lengths`.
    """
    least, most = lengths
    steps = torch.arange(most, device=first.device)
    start = (first * max(size - 1, 1)).long()[:, None]
    own = steps < least + (length * (most - least + 1)).long()[:, None]
    return (start + steps).clamp_max(size - 1), own & (start + steps < size)


def _wide(per_sample: Tensor) -> Tensor:
    return per_sample[:, None, None, None]
