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
    """Maximise sum_i ||F_i(x + delta) - F_i(x)||_2 over one delta shared by `layers`, from a random start.

    `x`: (N, C, H, W) float in [0, 1]; `layers`: from `enumerate_layers`; `eps`, `alpha`, `steps`, `norm` as
    for `pgd`. `relative=True` divides each distance by ||F_i(x)||_2. The network runs only up to the deepest
    of `layers`, and the clean features are computed once. Returns x_adv inside the ball, exactly; the model
    is left without a trace.
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
    """The attack without checks; the caller has put the model into attack mode. `clean`: the features of x, if
    they are known already.

    The start is always random: at delta = 0 the distance has its minimum and no gradient.
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
    """sum_i ||F_i(x') - F_i(x)||_2 for each sample (N,); `relative`: each divided by ||F_i(x)||_2."""
    total = torch.zeros(len(moved[0]), device=moved[0].device)
    for after, before in zip(moved, clean, strict=True):
        change = feature_distance(after, before)
        if relative:
            change = change / feature_norm(before).clamp_min(torch.finfo(torch.float32).tiny)
        total = total + change
    return total
