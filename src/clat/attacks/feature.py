"""The inner maximisation of CLAT (paper v1 Eq. 8, v2 Eq. 5): move the features of chosen layers, not the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clat.attacks.ascent import ascend, check_found, generator_for
from clat.attacks.ball import Ball
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.units import Size
from clat.network import modes
from clat.network.edge import accept
from clat.network.features import feature_distance, feature_norm, read_features
from clat.network.layers import Layer


def feature_attack(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[Layer],
    *,
    eps: Size,
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    tap: str = "output",
    relative: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Return images that move the features of `layers` as far as possible, with one perturbation for all.

    Maximises sum_i ||F_i(x + delta) - F_i(x)||_2 from a random start (the inner step of CLAT). The network runs
    only up to the deepest of the layers, the clean features are computed once, and the model is left without a
    trace.

    Args:
        model: a network that takes images in [0, 1]; used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        layers: at least one of `clat.network.layers.enumerate_layers`.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        alpha: the length of a step, in the same unit; None: 2.5 * eps / steps.
        steps: gradient steps, at least 1.
        norm: "linf" or "l2".
        tap: where a layer's feature is read; see `clat.network.features.TAPS`.
        relative: divide each distance by ||F_i(x)||_2.
        seed: the same seed gives the same example; None: a fresh one.

    Returns:
        x_adv, of the shape of `x`, within eps of it and within [0, 1] exactly.

    Raises:
        ClatError: for no layers, images outside [0, 1], settings that make no sense, or a gradient that is not
            finite.
    """
    model, x = accept(model, x)
    if not layers:
        raise ClatError("the feature attack needs at least one layer")
    attack = Attack.parse(eps=eps, alpha=alpha, steps=steps, norm=norm)
    with modes.attack_mode(model):
        found = run_feature_attack(model, x, layers, attack, tap=tap, relative=relative, seed=seed)
    check_found(found)
    return found


def run_feature_attack(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[Layer],
    attack: Attack,
    *,
    tap: str,
    relative: bool,
    seed: int | None,
    clean: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return what `feature_attack` does, without its checks.

    The start is always random: at delta = 0 the distance has its minimum and no gradient.

    Args:
        model: the network, in attack mode (`clat.network.modes.attack_mode`).
        x: images, (N, C, H, W) floating point in [0, 1].
        layers: the layers whose features are moved.
        attack: budget and step size; its `random_start` is not looked at.
        tap: where a layer's feature is read; see `clat.network.features.TAPS`.
        relative: divide each distance by ||F_i(x)||_2.
        seed: seed of the start; None: a fresh one.
        clean: the features of `x`, one tensor a layer, if they are known already.

    Returns:
        x_adv, of the shape of `x`, inside the ball exactly; NaN where a gradient was.
    """
    if clean is None:
        with torch.no_grad():
            clean = read_features(model, x, layers, tap=tap, stop=True, flat=False).values

    def value(z: Tensor) -> Tensor:
        moved = read_features(model, z, layers, tap=tap, stop=True, flat=False).values
        return feature_change(moved, clean, relative=relative).sum()

    ball = Ball.around(x, attack.threat)
    start = ball.random_point(generator_for(x.device, seed))
    return ascend(value, start, ball, alpha=attack.step_size, steps=attack.steps)


def feature_change(moved: Sequence[Tensor], clean: Sequence[Tensor], *, relative: bool) -> Tensor:
    """Return sum_i ||F_i(x') - F_i(x)||_2 for each sample.

    Args:
        moved: the features F_i(x'), one tensor (N, ...) a layer.
        clean: the features F_i(x), of the same shapes.
        relative: divide each distance by ||F_i(x)||_2.

    Returns:
        The sum over the layers, (N,).
    """
    total = torch.zeros(len(moved[0]), device=moved[0].device)
    for after, before in zip(moved, clean, strict=True):
        change = feature_distance(after, before)
        if relative:
            change = change / feature_norm(before).clamp_min(torch.finfo(torch.float32).tiny)
        total = total + change
    return total
