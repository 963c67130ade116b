"""Module robust criticality (MRC) of RiFT: how much the worst small change of one layer's weight hurts robustness.

Zhu, Hu, Wang, Xie, Yang, "Improving Generalization of Adversarial Training via Robust Critical Fine-Tuning",
ICCV 2023, Definition of MRC and Algorithm 1. For the weight theta_i of one module,

    MRC_i = max over ||dtheta_i||_2 <= radius * ||theta_i||_2 of R(theta + dtheta_i) - R(theta)

with R the cross-entropy on adversarial examples. As the algorithm does, the examples are made once, against the
network as it is, and serve all modules; the maximum is sought by gradient ascent with projection after each
epoch. dtheta = 0 is allowed, so MRC is at least 0. Low means that the module can be fine-tuned at little risk:
RiFT takes the lowest.

The paper's algorithm stops at the first projection; its code goes on and keeps the largest loss, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.ascent import check_found
from clat.attacks.pgd import checked_cross_entropy, run_pgd
from clat.attacks.settings import Attack
from clat.core.checks import check_images
from clat.core.errors import ClatError
from clat.core.progress import counted
from clat.core.seeds import derive_seed
from clat.core.units import Size
from clat.criticality.probing import (
    Weights,
    batches,
    check_ranking,
    combined,
    joint_norm,
    layer_weights,
    logits_with,
    loss_and_accuracy,
    measuring,
)
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.network.computed import with_plain_weights
from clat.network.edge import accept_on_device, as_measured, beside
from clat.network.guard import input_channels
from clat.network.layers import Layer, enumerate_layers

PUBLISHED = MappingProxyType({"eps": "8/255", "alpha": "2/225", "steps": 10, "batch_size": 512})
"""The settings in RiFT's code that differ from the defaults here: alpha is 2/225, a slip for 2/255. That code also
measures on the test split, which then decides what is fine-tuned; measure on held-out training images instead."""


def measure_robust_criticality(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size = "8/255",
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    x_adv: Tensor | None = None,
    radius: float = 0.1,
    epochs: int = 10,
    lr: float = 1.0,
    batch_size: int = 512,
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
) -> RankingReport:
    """Return the MRC of every layer, in units of the cross-entropy.

    Of a layer with several weight tensors (attention) all move together; biases and BatchNorm stay. A weight that
    is computed from others (weight_norm, spectral_norm, prune) moves as the layer uses it. The model is left
    without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1], best held-out training images.
        y: labels, (N,) int64.
        eps: the radius of the PGD attack that makes the adversarial examples, in the unit of `x`: a number or a
            fraction such as "8/255".
        alpha: the length of its steps, in the same unit; None: 2.5 * eps / steps.
        steps: its gradient steps, at least 1.
        norm: its norm, "linf" or "l2".
        x_adv: examples to use instead of the attack's, of the shape of `x`.
        radius: the largest change of a weight tensor, as a share of its norm.
        epochs: epochs of the ascent, by SGD without momentum.
        lr: its step size.
        batch_size: images of one step, and of one forward pass.
        seed: seed of the attack's start.
        layers: some of `enumerate_layers`; None: all, with shortcuts and classifier, as RiFT ranks every
            convolution and linear weight. (Its code leaves out modules with "sub" in their names:
            `enumerate_layers(model, x, shortcuts=True, classifier=True, exclude=["*sub*"])`.)

    Returns:
        A report whose values are rises of the robust loss, at least 0.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a loss that is not finite.
    """
    model, x, y = accept_on_device(model, x, y)
    if layers is None:
        layers = enumerate_layers(model, x, shortcuts=True, classifier=True)
    check_ranking(x, layers, batch_size)
    check_ascent(radius, epochs, lr)
    model = with_plain_weights(model)
    attack = Attack.parse(eps=eps, alpha=alpha, steps=steps, norm=norm)
    with measuring(model, x.device) as cost:
        if x_adv is None:
            x_adv = _attacked(model, x, y, attack, seed, batch_size)
        elif x_adv.shape != x.shape:
            raise ClatError(f"x_adv has shape {tuple(x_adv.shape)}, expected that of x, {tuple(x.shape)}")
        check_images(x_adv, input_channels(model))
        (x_adv,) = beside(model, as_measured(model, x_adv))
        clean = loss_and_accuracy(model, {}, x, y, batch_size)[1]
        loss, accuracy = loss_and_accuracy(model, {}, x_adv, y, batch_size)
        if not math.isfinite(loss):
            raise ClatError("the model returns NaN or infinite logits")
        rows = []
        for layer in counted("mrc: layers", layers):
            worst, remaining = _worst(
                model,
                layer_weights(model, layer),
                x_adv,
                y,
                (loss, accuracy),
                radius=radius,
                epochs=epochs,
                lr=lr,
                batch_size=batch_size,
            )
            details = {"robust_loss": worst, "robust_accuracy": remaining}
            rise = worst - loss
            rows.append(RankingRow(layer.index, layer.name, layer.kind, layer.num_params, rise, details))
    return RankingReport(
        ranking="mrc",
        measure="module robust criticality, the rise of the robust loss",
        rows=rows,
        n=len(x),
        seed=seed,
        settings={
            "eps": attack.threat.text,
            "alpha": attack.step_size,
            "steps": steps,
            "norm": norm,
            "radius": radius,
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
        },
        baseline={"clean_accuracy": clean, "robust_accuracy": accuracy, "robust_loss": loss},
        cost=cost,
    )


def check_ascent(radius: float, epochs: int, lr: float) -> None:
    """Raise an error for a setting of the ascent that makes no sense.

    Args:
        radius: the largest change of a weight tensor, as a share of its norm, at least 0.
        epochs: epochs of the ascent, at least 1.
        lr: step size of the ascent, at least 0.

    Raises:
        ClatError: with the first that does not fit.
    """
    for what, number, least in (("radius", radius, 0.0), ("epochs", epochs, 1), ("lr", lr, 0.0)):
        if not (math.isfinite(number) and number >= least):
            raise ClatError(f"{what} of the robust criticality is {number}: expected at least {least:g}")


def _attacked(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, batch_size: int) -> Tensor:
    """Return PGD examples against the network as it is; the first batch gets those of `measure_criticality`."""
    parts = []
    for number, (images, labels) in enumerate(batches(x, y, batch_size)):
        place = derive_seed(seed, "mrc", number) if number else seed
        parts.append(run_pgd(model, images, labels, attack, seed=place, loss=checked_cross_entropy))
    x_adv = torch.cat(parts)
    check_found(x_adv)
    return x_adv


def _worst(
    model: nn.Module,
    theta: Weights,
    x_adv: Tensor,
    y: Tensor,
    start: tuple[float, float],
    *,
    radius: float,
    epochs: int,
    lr: float,
    batch_size: int,
) -> tuple[float, float]:
    """Return the largest robust loss seen after an epoch's projection, and the accuracy there.

    `theta`: the layer's weights; `start`: loss and accuracy of the network as it is.
    """
    best, weights, bound = start, theta, radius * joint_norm(theta)
    for _ in range(epochs):
        for images, labels in batches(x_adv, y, batch_size):
            weights = _uphill(model, weights, images, labels, lr)
        weights = project_weights(weights, theta, bound)
        found = loss_and_accuracy(model, weights, x_adv, y, batch_size)
        if not math.isfinite(found[0]):
            raise ClatError("the ascent of the robust criticality left the finite numbers: lower lr")
        best = max(best, found, key=lambda each: each[0])
    return best


def _uphill(model: nn.Module, weights: Weights, images: Tensor, labels: Tensor, lr: float) -> Weights:
    """Make one step of gradient ascent on the mean cross-entropy, and return the weights."""
    moving = {name: weight.detach().requires_grad_(True) for name, weight in weights.items()}
    with torch.enable_grad():
        loss = F.cross_entropy(logits_with(model, moving, images).float(), labels)
    if not loss.requires_grad:  # the layer runs, but nothing that it gives reaches the logits
        return weights
    gradients = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
    return {
        name: weight.detach() if gradient is None else weight.detach() + lr * gradient
        for (name, weight), gradient in zip(moving.items(), gradients, strict=True)
    }


def project_weights(weights: Weights, centre: Weights, bound: float) -> Weights:
    """Return the nearest weights within a ball, all tensors taken as one vector.

    Args:
        weights: tensors by name.
        centre: tensors of the same names and shapes.
        bound: the radius of the ball.

    Returns:
        Weights with ||weights - centre||_2 <= bound.
    """
    change = combined(torch.sub, weights, centre)
    length = joint_norm(change)
    if length <= bound:
        return weights
    scale = bound / length
    return combined(lambda middle, moved: middle + scale * moved, centre, change)
