"""The nearest point of an l1 ball cut with the image range [0, 1].

Croce and Hein 2021 (Mind the box): projecting onto the ball and then clipping to the range leaves most of the
radius unused. The nearest point of both together shrinks every change by one amount, the size of a change held
between zero and what the range leaves room for,

    z_i = sign(u_i) min(max(|u_i| - s, 0), room_i),   sum_i |z_i| = eps,

where s = 0 if that is inside already. The sum is piecewise linear in s and falls; its kinks are at |u_i| - room_i,
where a change begins to shrink, and at |u_i|, where it is gone. Sorted, they give s exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_l1(x: Tensor, change: Tensor, eps: Tensor | float) -> Tensor:
    """Return the nearest changes (in l2) whose l1 norm is at most `eps` and that stay in the image range.

    Args:
        x: images, (N, D) in [0, 1].
        change: what is to be added to them, (N, D), of any size.
        eps: the radius, one number or (N,).

    Returns:
        (N, D) in float64, exact but for that type's rounding.
    """
    x, change = x.double(), change.double()
    size = change.abs()
    room = torch.where(change > 0, 1 - x, x).clamp_min(0)
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))
    shrink = _shrinkage(size, room, radius)
    return (size - shrink[:, None]).clamp_min(0).minimum(room).copysign(change)


def _shrinkage(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return by how much each row's changes shrink, (N,)."""
    begins = (size - room).clamp_min(0).minimum(size)
    kinks, order = torch.cat([begins, size], 1).sort(1)
    # One change more shrinks from the kink at which it begins on, and one fewer from where it is gone.
    slopes = torch.where(order < size.shape[1], 1.0, -1.0).to(kinks).cumsum(1)
    start = size.minimum(room).sum(1)
    fallen = (slopes[:, :-1] * kinks.diff(dim=1)).cumsum(1)
    left = torch.cat([start[:, None], start[:, None] - fallen], 1)  # at each kink; before the first nothing shrinks
    # The last kink at which more than the radius is left: from there on it is a straight line.
    last = ((left > radius[:, None]).sum(1) - 1).clamp_min(0)[:, None]
    further = (left.gather(1, last).squeeze(1) - radius) / slopes.gather(1, last).squeeze(1).clamp_min(1)
    return torch.where(start > radius, kinks.gather(1, last).squeeze(1) + further, torch.zeros_like(start))
