"""The activation attack (Inkawhich, Wen, Li, Chen, CVPR 2019): drive a hidden feature towards another image's.

Targeted: minimise ||A_L(x') - A_L(x_t)||_2 at one layer L, with x_t an image of the target class, by the
momentum iterative method (Dong et al. 2018): g <- decay * g + grad / mean|grad|, x' <- x' - alpha * sign(g).
Published: eps 0.07, 10 steps, alpha = eps / steps, decay 1, started at x. CLAT's inner attack
(`clat.attacks.feature`) is its untargeted relative, over several layers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from clat.attacks.ascent import check_found, input_gradient
from clat.attacks.ball import Ball
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.units import Size
from clat.network import modes
from clat.network.edge import accept
from clat.network.features import feature_distance, read_features
from clat.network.layers import Layer


def activation_attack(
    model: nn.Module,
    x: Tensor,
    x_target: Tensor,
    layer: Layer,
    *,
    eps: Size,
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    decay: float = 1.0,
    tap: str = "output",
) -> Tensor:
    """Return images whose feature at `layer` is as close as possible to that of their target images.

    Nothing is drawn at random. The network runs only up to the layer, and is left without a trace.

    Args:
        model: a network that takes images in [0, 1]; used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        x_target: the target of each image, of the shape and range of `x`.
        layer: one of `clat.network.layers.enumerate_layers`.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        alpha: the length of a step, in the same unit; None: eps / steps.
        steps: gradient steps, at least 1.
        norm: "linf" or "l2".
        decay: what is kept of the momentum from step to step, from 0 to 1.
        tap: where the layer's feature is read; see `clat.network.features.TAPS`.

    Returns:
        x_adv, of the shape of `x`, within eps of it and within [0, 1] exactly.

    Raises:
        ClatError: for images outside [0, 1], shapes that differ, settings that make no sense, or a gradient that is
            not finite.
    """
    model, x = accept(model, x)
    _, x_target = accept(model, x_target)
    if x_target.shape != x.shape:
        raise ClatError(f"x_target has shape {tuple(x_target.shape)}, expected that of x, {tuple(x.shape)}")
    attack = activation_settings(eps, alpha, steps, norm)
    check_decay(decay)
    with modes.attack_mode(model):
        found = run_activation_attack(model, x, x_target, layer, attack, decay=decay, tap=tap)
    check_found(found)
    return found


def activation_settings(eps: Size, alpha: Size | None, steps: int, norm: str) -> Attack:
    """Return the attack's settings, with steps that just reach the surface of the ball by default.

    Args:
        eps: the radius of the ball in image units, a number or a fraction such as "8/255".
        alpha: the length of a step in image units; None: eps / steps.
        steps: gradient steps, at least 1.
        norm: "linf" or "l2".

    Returns:
        Settings of an attack without a random start.

    Raises:
        ClatError: for settings that make no sense.
    """
    attack = Attack.parse(eps=eps, alpha=alpha, steps=steps, norm=norm, random_start=False)
    size = attack.threat.eps
    if alpha is not None or size == 0:
        return attack
    return replace(attack, alpha=size / steps)


def check_decay(decay: float) -> None:
    """Raise an error unless the decay of the momentum is from 0 to 1.

    Args:
        decay: what is kept of the momentum from step to step.

    Raises:
        ClatError: for any other number.
    """
    if not 0 <= decay <= 1:
        raise ClatError(f"decay of the momentum is {decay}: expected a value from 0 to 1")


def run_activation_attack(
    model: nn.Module, x: Tensor, x_target: Tensor, layer: Layer, attack: Attack, *, decay: float, tap: str
) -> Tensor:
    """Return what `activation_attack` does, without its checks.

    Args:
        model: the network, in attack mode (`clat.network.modes.attack_mode`).
        x: images, (N, C, H, W) floating point in [0, 1].
        x_target: the target of each image, of the shape and range of `x`.
        layer: the layer whose feature is driven towards the target's.
        attack: budget and step size, as `activation_settings` returns them.
        decay: what is kept of the momentum from step to step, from 0 to 1.
        tap: where the layer's feature is read; see `clat.network.features.TAPS`.

    Returns:
        x_adv, of the shape of `x`, inside the ball exactly; NaN where a gradient was.
    """

    def feature(z: Tensor) -> Tensor:
        return read_features(model, z, [layer], tap=tap, stop=True).values[0]

    with torch.no_grad():
        wanted = feature(x_target)
    ball = Ball.around(x, attack.threat)
    point, momentum = x, torch.zeros_like(x)
    for _ in range(attack.steps):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            gradient = input_gradient(feature_distance(feature(point), wanted).sum(), point)
        momentum = decay * momentum + _normalised(gradient)
        point = ball.project(point.detach() - attack.step_size * ball.unit(momentum))
    return point.detach()


def _normalised(gradient: Tensor) -> Tensor:
    """Each sample's gradient over the mean of its absolute values; a zero gradient stays zero."""
    if gradient.numel() == 0:
        return gradient
    mean = gradient.abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / mean.view(-1, *([1] * (gradient.dim() - 1)))
