"""CURE's robust gradient prominence (Gowda et al. 2024, Eq. 6), and the masks of what a step conserves."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.network.trace import kind_of

MaskedGroup = Literal["convolutions", "all-but-linear", "all"]
MASKED_GROUPS: tuple[MaskedGroup, ...] = get_args(MaskedGroup)
"""Named choices of the tensors that are masked: weights of convolutions; all but what belongs to linear layers, so
BatchNorm's scale and shift too (the released code's "rgp"); every parameter."""


def prominence(natural: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    """Return RGP = alpha * |dCE(x)/dw| + (1 - alpha) * |dCE(x')/dw| of each weight (Eq. 6).

    Args:
        natural: the gradient of CE(x) in a tensor of weights.
        adversarial: the gradient of CE(x') in it, of the same shape.
        alpha: the share of the natural gradient, from 0 to 1.

    Returns:
        The prominence, of the same shape, at least 0.
    """
    return alpha * natural.abs() + (1 - alpha) * adversarial.abs()


def least_prominent(values: Tensor, percent: float) -> Tensor:
    """Return which elements of a tensor have the smallest values.

    Nothing leaves the device, and the device does not decide which.

    Args:
        values: of any shape.
        percent: how many of its n elements, from 0 to 100.

    Returns:
        Flags of the same shape: exactly round(percent / 100 * n) are true; of equal values, those that come first
        in the tensor.
    """
    flat = values.detach().reshape(-1)
    count = round(percent / 100 * len(flat))
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    # topk rather than kthvalue, which gives a tensor of millions to a single block of a GPU.
    threshold = flat.topk(count, largest=False, sorted=False).values.max()
    below, ties = flat < threshold, flat == threshold
    mask = below | (ties & (ties.cumsum(0) <= count - below.sum()))
    return mask.view(values.shape)


def maskable(
    model: nn.Module, moving: dict[str, nn.Parameter], choice: str | Sequence[str]
) -> dict[str, nn.Parameter]:
    """Return the moving parameters that CURE masks.

    Args:
        model: the network that they belong to.
        moving: the parameters that move in the stage, by name.
        choice: one of MASKED_GROUPS, or patterns of parameter names ("*conv1.weight").

    Returns:
        Those of `moving` that are chosen, by name.

    Raises:
        ClatError: for an unknown choice, and if nothing that moves is among them.
    """
    if isinstance(choice, str):
        if choice not in MASKED_GROUPS:
            raise unknown("group of masked weights", choice, MASKED_GROUPS)
        chosen = {name for name in moving if _in_group(model, name, choice)}
    else:
        everything = [name for name, _ in model.named_parameters()]
        for pattern in choice:
            if not any(fnmatchcase(name, pattern) for name in everything):
                raise unknown("pattern of masked weights", pattern, everything)
        chosen = {name for name in moving if any(fnmatchcase(name, pattern) for pattern in choice)}
    if not chosen:
        raise ClatError(
            f"CURE masks {choice}, of which nothing moves in this stage: change `masked` or percent = 0"
        )
    return {name: parameter for name, parameter in moving.items() if name in chosen}


def _in_group(model: nn.Module, name: str, group: str) -> bool:
    if group == "all":
        return True
    owner, _, leaf = name.rpartition(".")
    kind = kind_of(model.get_submodule(owner))
    return kind != "linear" if group == "all-but-linear" else kind == "conv" and leaf == "weight"
