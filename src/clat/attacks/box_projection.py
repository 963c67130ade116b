"""The shortest way from a point of the box [0, 1]^D to a hyperplane, staying in the box.

Flip signs so that the inner product has to rise by c > 0. A step of "length" t moves each coordinate towards the
side that raises w.d, by t in l-inf and by t |w_i| in l2 (that is the steepest ascent of the norm), and stops at the
side of the box, `room_i` away; any shortest step has this form (Karush-Kuhn-Tucker). With speed s_i = 1 or |w_i|,

    rise(t) = sum_i |w_i| min(t s_i, room_i) = c

has to be solved for t. The usual way sorts the breakpoints room_i / s_i. But `rise` is concave, increasing and
piecewise linear, so Newton's method from t = 0 climbs without overshooting, from piece to piece, and is exact once
it meets the right one: t = (c - sum_stopped |w_i| room_i) / sum_moving |w_i| s_i. The stopped coordinates only grow
in number, so it ends, on images after a handful of passes, each far cheaper than a sort.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clat.core.errors import unknown
from clat.core.threat_model import NORMS

_HUGE = 1e30
"""Stands for "all the way" where the box ends before the hyperplane; times a speed of zero it is still zero."""


def step_to_hyperplane(x: Tensor, w: Tensor, rise: Tensor, norm: str = "linf") -> Tensor:
    """Return the shortest step to a hyperplane that stays within the box [0, 1]^D.

    Each row is computed by itself. Coordinates with w = 0 do not move.

    Args:
        x: points of the box, (N, D).
        w: the normal of each hyperplane, (N, D).
        rise: how far w.x has to change, (N,), which is b - w.x for the hyperplane w.z = b.
        norm: "linf" or "l2", in which the step is shortest.

    Returns:
        The step d, (N, D), with w.d = rise and x + d in [0, 1]; where the box does not reach the hyperplane, d
        leads to the corner of the box nearest to it.

    Raises:
        ClatError: for a norm that does not exist.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    # In place where it can be: on a CPU fresh memory costs more than the arithmetic.
    steepness = w.abs()
    # A gradient may be so small that its square is zero; only its direction matters.
    scale = steepness.amax(1).clamp_min_(torch.finfo(w.dtype).tiny)
    steepness /= scale[:, None]
    side = w.sign().mul_(rise.sign()[:, None])
    room = side.clamp_min(0).sub_(x).abs_()
    speed = None if norm == "linf" else steepness
    return _advance(steepness, speed, room, rise.abs() / scale).mul_(side)


def _advance(steepness: Tensor, speed: Tensor | None, room: Tensor, wanted: Tensor) -> Tensor:
    """Return how far each coordinate moves, min(t s_i, room_i), (N, D). `speed`: None stands for all ones."""
    gain = steepness if speed is None else steepness * speed
    most = steepness * room
    tiny = torch.finfo(room.dtype).tiny
    t = (wanted / gain.sum(1).clamp_min_(tiny)).clamp_max_(_HUGE)
    # Masks of zeros and ones in one buffer: many times faster than bool masks and torch.where on a CPU.
    mask = torch.empty_like(room)
    while True:
        reach = t[:, None] if speed is None else t[:, None] * speed
        left = wanted - torch.ge(reach, room, out=mask).mul_(most).sum(1)
        slope = torch.lt(reach, room, out=mask).mul_(gain).sum(1)
        further = (left / slope.clamp_min_(tiny)).clamp_max_(_HUGE)
        if not (further > t).any():
            return torch.minimum(reach, room, out=mask)
        t = torch.maximum(t, further)
