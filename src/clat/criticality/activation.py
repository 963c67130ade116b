"""Layers ranked by the activation attack (Inkawhich et al., CVPR 2019) at each of them.

The more often driving the feature of a layer towards that of another image turns the prediction into the other
image's class, the more critical the layer. The paper chose its layer by how well the examples transfer to another
network; here the attacked network itself is the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clat.attacks.activation import activation_settings, check_decay, run_activation_attack
from clat.attacks.ascent import check_found
from clat.core.checks import check_images, check_labels
from clat.core.errors import ClatError, unknown
from clat.core.progress import counted
from clat.core.seeds import generator
from clat.core.units import Size
from clat.criticality.probing import batches, check_ranking, measuring
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.network.edge import accept_on_device, as_measured, beside
from clat.network.features import TAPS, feature_distance, read_features
from clat.network.guard import input_channels
from clat.network.layers import Layer, enumerate_layers
from clat.network.logits import check_logits

VALUES = ("target", "error")
"""What counts as success: `target`, the prediction is the target image's class (the paper's tSuc); `error`, it is
wrong (the paper's error rate)."""


def measure_activation_ranking(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size = "8/255",
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    decay: float = 1.0,
    tap: str = "output",
    value: Literal["target", "error"] = "target",
    targets: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 512,
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
) -> RankingReport:
    """Return the success rate of the activation attack at every layer.

    The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        alpha: the length of a step, in the same unit; None: eps / steps.
        steps: gradient steps, at least 1.
        norm: "linf" or "l2".
        decay: what is kept of the attack's momentum, from 0 to 1.
        tap: where the feature is read; see `clat.network.features.TAPS`.
        value: what counts as success; see VALUES.
        targets: the target images, of the shape of `x`, and their classes, (N,); None: to each sample one of the
            batch that is of another class and that the model gets right, drawn by `seed`.
        batch_size: images attacked at a time.
        seed: seed of the draw of targets.
        layers: some of `enumerate_layers`; None: all of them.

    Returns:
        A report whose values are rates in [0, 1].

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a batch of one class.
    """
    model, x, y = accept_on_device(model, x, y)
    layers = enumerate_layers(model, x) if layers is None else list(layers)
    check_ranking(x, layers, batch_size)
    check_attacked(tap, value)
    attack = activation_settings(eps, alpha, steps, norm)
    check_decay(decay)
    if targets is not None:
        check_images(targets[0], input_channels(model))
        check_labels(targets[1], None, len(x))
        if targets[0].shape != x.shape:
            raise ClatError(f"the target images have shape {tuple(targets[0].shape)}, x has {tuple(x.shape)}")
        images, labels = beside(model, as_measured(model, targets[0]), targets[1])
        targets = images, labels
    with measuring(model, x.device) as cost:
        before = _predictions(model, x, y, batch_size)
        if targets is None:
            chosen = draw_targets(y, before == y, seed)
            targets = x[chosen], y[chosen]
        rows = []
        for layer in counted("activation: layers", layers):
            parts, shares = [], []
            for images, wanted in batches(x, targets[0], batch_size):
                found = run_activation_attack(model, images, wanted, layer, attack, decay=decay, tap=tap)
                check_found(found)
                parts.append(found)
                shares.append(_remaining_distance(model, images, found, wanted, layer, tap))
            after = _predictions(model, torch.cat(parts), y, batch_size)
            details = {
                "target_success": _rate(after == targets[1]),
                "accuracy": _rate(after == y),
                "remaining_distance": torch.cat(shares).double().mean().item(),
            }
            success = details["target_success"] if value == "target" else 1 - details["accuracy"]
            rows.append(RankingRow(layer.index, layer.name, layer.kind, layer.num_params, success, details))
    return RankingReport(
        ranking="activation",
        measure="success rate of the activation attack" + (", untargeted" if value == "error" else ""),
        rows=rows,
        n=len(x),
        seed=seed,
        settings={
            "eps": attack.threat.text,
            "alpha": attack.step_size,
            "steps": steps,
            "norm": norm,
            "decay": decay,
            "tap": tap,
            "value": value,
        },
        baseline={"clean_accuracy": _rate(before == y), "target_success": _rate(before == targets[1])},
        cost=cost,
    )


def check_attacked(tap: str, value: str) -> None:
    """Raise an error, with the nearest valid name, for a name that does not exist.

    Args:
        tap: where the feature is read; see `clat.network.features.TAPS`.
        value: what counts as success; see VALUES.

    Raises:
        ClatError: for the first that is none.
    """
    if value not in VALUES:
        raise unknown("value of the activation ranking", value, VALUES)
    if tap not in TAPS:
        raise unknown("feature tap", tap, TAPS)


def draw_targets(y: Tensor, right: Tensor, seed: int) -> Tensor:
    """Return for each sample the place of another one of a different class.

    The draw depends on y, `right` and the seed alone.

    Args:
        y: labels, (N,) int64.
        right: the samples to draw from if those are of at least two classes, (N,) bool, as a misclassified image is
            no example of its class.
        seed: seed of the draw.

    Returns:
        Places in the batch, (N,) int64, on the device of `y`.

    Raises:
        ClatError: if all images are of one class.
    """
    labels, usable = y.cpu(), right.cpu()
    if len(labels[usable].unique()) < 2:
        usable = torch.ones_like(usable)
    if len(labels.unique()) < 2:
        raise ClatError("all images are of one class: the activation attack needs targets of another one")
    # The largest of random numbers over the usable samples of other classes: uniform among them.
    score = torch.rand(len(labels), len(labels), generator=generator(seed, "activation targets"))
    score[(labels[:, None] == labels[None, :]) | ~usable[None, :]] = -1.0
    return score.argmax(dim=1).to(y.device)


def _predictions(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    found = []
    with torch.no_grad():
        for images, labels in batches(x, y, batch_size):
            logits = model(images)
            check_logits(logits, labels)
            found.append(logits.argmax(1))
    return torch.cat(found)


def _remaining_distance(
    model: nn.Module, x: Tensor, x_adv: Tensor, wanted: Tensor, layer: Layer, tap: str
) -> Tensor:
    """Return ||A(x') - A(x_t)|| / ||A(x) - A(x_t)|| of each sample, (N,)."""
    with torch.no_grad():
        clean, moved, goal = (
            read_features(model, z, [layer], tap=tap, stop=True).values[0] for z in (x, x_adv, wanted)
        )
    tiny = torch.finfo(torch.float32).tiny
    return feature_distance(moved, goal) / feature_distance(clean, goal).clamp_min(tiny)


def _rate(hits: Tensor) -> float:
    return hits.double().mean().item()
