"""Run an attack's search over many samples: those that are done leave the batch and new ones take their place.

A robust network makes most attacks run to their last iteration on most samples, a weak one lets go of them early;
either way every forward pass is a full one, and no time goes into samples whose verdict is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

SearchState = dict[str, Tensor]
"""Everything a search knows, one row a sample: tensors whose first axis is the sample."""


class Search(Protocol):
    """An iterative attack on a batch of samples that need not have started together.

    A state holds at least `adv` (N, ...), the example found so far, and `done` (N,) bool: nothing more will be
    tried. It may hold `claim` (N,) bool: the example may well do, and is worth a verdict before the search goes on.
    The model is in attack mode. What a search does with a sample must depend on that sample's row alone.
    """

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state before the first iteration.

        Args:
            x: images, (N, C, H, W) floating point in [0, 1], on the model's device.
            y: labels, (N,) int64.
            ids: the samples' numbers in the data set, (N,) int64, which the random numbers belong to.

        Returns:
            The state, one row a sample.
        """

    def step(self, state: SearchState) -> None:
        """Make one iteration for every sample of the state, in place.

        Args:
            state: as `start` returned it, or rows of several of these states put together.
        """


CPU_BATCH = 96
"""On a CPU larger forward passes cost no less an image, so that nothing is gained by filling them with guesses."""


def worthwhile(batch_size: int, device: torch.device) -> int:
    """Return how many images to fill a forward pass up to with work that may turn out to be in vain.

    Args:
        batch_size: images that a forward pass may hold.
        device: where the model is.

    Returns:
        `batch_size`, or on a CPU at most CPU_BATCH.
    """
    return min(batch_size, CPU_BATCH) if device.type == "cpu" else batch_size


CPU_BYTES = 2**23
"""Bytes of images, as float32, beyond which a forward pass on a CPU costs no less an image: its layers' outputs
leave the caches, and the C library takes memory from the system and gives it back at every one of them."""


def at_a_time(batch_size: int, image: Sequence[int], device: torch.device) -> int:
    """Return how many images are given to a network together where its gradients or logits alone are wanted.

    Args:
        batch_size: how many at most.
        image: the shape of one, (C, H, W).
        device: where the model is.

    Returns:
        `batch_size`, or on a CPU no more than CPU_BYTES hold, and at least one.
    """
    return min(batch_size, max(CPU_BYTES // (4 * math.prod(image)), 1)) if device.type == "cpu" else batch_size


def run_search(
    search: Search,
    x: Tensor,
    y: Tensor,
    ids: Tensor | None = None,
    *,
    batch_size: int | None = None,
    device: torch.device | None = None,
    finished: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Search on all samples, and return the example of each.

    Args:
        search: the attack; its model is in attack mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        ids: the samples' numbers in the data set, (N,) int64; None: 0, 1, ...
        batch_size: samples that are searched on at a time; None: all.
        device: where the model is, if x is elsewhere.
        finished: called as samples finish, with their places in x, (M,) int64, and their examples, (M, C, H, W).

    Returns:
        The examples, (N, C, H, W), on the device of `x`.
    """
    result = x.clone()

    def keep(_: Tensor, rows: Tensor, adv: Tensor) -> None:
        result[rows.to(result.device)] = adv.to(result.device)
        if finished is not None:
            finished(rows, adv)

    run_searches([search], x, y, ids, batch_size=batch_size, device=device, finished=keep)
    return result


def run_searches(
    searches: Sequence[Search],
    x: Tensor,
    y: Tensor,
    ids: Tensor | None = None,
    *,
    wanted: Tensor | None = None,
    batch_size: int | None = None,
    device: torch.device | None = None,
    finished: Callable[[Tensor, Tensor, Tensor], Tensor | None],
    claimed: Callable[[Tensor, Tensor, Tensor], Tensor | None] | None = None,
) -> None:
    """Run several searches on the same samples, in order; a later one may begin while an earlier one goes on.

    Args:
        searches: alike but for how they start, as those for several targets are; their models are in attack mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        ids: the samples' numbers in the data set, (N,) int64; None: 0, 1, ...
        wanted: which search is to be made on which sample, (S, N) bool; None: each on all.
        batch_size: samples that are searched on at a time; None: all.
        device: where the model is, if x is elsewhere.
        finished: called as samples finish, with the numbers of their searches, (M,) int64, their places in x, (M,)
            int64, and their examples. May return which samples are settled, (N,) bool: what is still searched for
            on them is given up.
        claimed: called alike when samples hold a claim (see `Search`); None: nobody is told.
    """
    device = x.device if device is None else device
    size = len(x) if batch_size is None else batch_size
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    everything = torch.ones(len(searches), len(x), dtype=torch.bool)
    waiting = (everything if wanted is None else wanted.cpu()).nonzero()
    held = waiting[:0]  # (M, 2): which search, on which sample
    state: SearchState | None = None
    while len(waiting) or len(held):
        count = _free(held, waiting, size, worthwhile(size, device))
        new, waiting = waiting[:count], waiting[count:]
        for number, search in enumerate(searches):
            rows = new[new[:, 0] == number, 1]
            if len(rows):
                state = _joined(
                    state, search.start(*(part[rows.to(part.device)].to(device) for part in (x, y, ids)))
                )
        held = torch.cat([held, new])
        assert state is not None
        # Copying the rest together costs a pass over the state, about a quarter of an iteration.
        lost, settled = 0, None
        while 4 * (lost := lost + len(searches) * int(state["done"].sum())) < max(1, len(held)):
            searches[0].step(state)
            if claimed is not None and "claim" in state and (claim := state["claim"]).any():
                claims = held[claim.cpu()]
                settled = claimed(claims[:, 0], claims[:, 1], state["adv"][claim])
                break
        done = state["done"]
        if done.any():
            leaving = held[done.cpu()]
            told = finished(leaving[:, 0], leaving[:, 1], state["adv"][done])
            settled = settled if told is None else told
        keep = ~done
        if settled is not None:
            keep &= ~settled[held[:, 1]].to(device)
            waiting = waiting[~settled[waiting[:, 1]]]
        if not keep.all():
            state, held = {name: value[keep] for name, value in state.items()}, held[keep.cpu()]


def _free(held: Tensor, waiting: Tensor, size: int, guesses: int) -> int:
    """Return how many of those that wait may begin.

    While a sample's earlier search is under way, a later one is a guess: it is in vain if the earlier one succeeds.
    """
    room = size - len(held)
    candidates = waiting[:room]
    if not len(candidates):
        return 0
    busy = set(held[:, 1].tolist())
    first = 0
    for row in candidates[:, 1].tolist():
        if row in busy:
            break
        busy.add(row)
        first += 1
    return max(first, min(len(candidates), guesses - len(held)))


def _joined(state: SearchState | None, new: SearchState) -> SearchState:
    if state is None or not len(state["done"]):
        return new
    return {name: torch.cat([state[name], new[name]]) for name in new}
