"""Running an attack's search over many samples: those that are done leave the batch and new ones take their place.

A robust network makes most attacks run to their last iteration on most samples, a weak one lets go of them early;
either way every forward pass is a full one, and no time goes into samples whose verdict is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Everything a search knows, one row a sample: tensors whose first axis is the sample."""


class Search(Protocol):
    """An iterative attack on a batch of samples that need not have started together.

    A state holds at least `adv` (N, ...), the example found so far, and `done` (N,) bool: nothing more will be
    tried. The model is in attack mode. What a search does with a sample must depend on that sample's row alone.
    """

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> State:
        """The state before the first iteration. `ids`: (N,) int64, which the random numbers belong to."""

    def step(self, state: State) -> None:
        """One iteration for every sample of the state, in place."""


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
    """Search on all of `x` (N, C, H, W), `y` (N,), at most `batch_size` at a time, and return `adv` (N, C, H, W).

    `ids`: the samples' numbers in the data set (None: 0, 1, ...); `device`: where the model is, if x is elsewhere;
    `finished(rows, adv)` is called as samples finish, with their places in x and their examples.
    """
    device = x.device if device is None else device
    size = len(x) if batch_size is None else batch_size
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    result = x.clone()
    state: State | None = None
    waiting, rows = 0, torch.empty(0, dtype=torch.int64)
    while waiting < len(x) or len(rows):
        new = torch.arange(waiting, min(waiting + size - len(rows), len(x)))
        if len(new):
            fresh = (part[new.to(part.device)].to(device) for part in (x, y, ids))
            state = _joined(state, search.start(*fresh))
            rows, waiting = torch.cat([rows, new]), waiting + len(new)
        assert state is not None
        # Copying the survivors together costs a pass over the state, so it waits until it pays.
        while int(state["done"].sum()) < max(1, len(rows) // 8):
            search.step(state)
        done = state["done"]
        leaving, found = rows[done.cpu()], state["adv"][done]
        result[leaving.to(result.device)] = found.to(result.device)
        if finished is not None:
            finished(leaving, found)
        keep = ~done
        state, rows = {name: value[keep] for name, value in state.items()}, rows[keep.cpu()]
    return result


def _joined(state: State | None, new: State) -> State:
    if state is None:
        return new
    return {name: torch.cat([state[name], new[name]]) for name in new}
