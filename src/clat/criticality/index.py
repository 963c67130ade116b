"""CLAT's weakness W and criticality index C, which say how critical each layer is for robustness.

Weakness (paper v1 Eq. 5, v2 Eq. 2) of the feature after layer i, with N_i elements a sample:

    W(F_i) = 1/N_i * mean over x of ||F_i(x') - F_i(x)||_2          (un-squared norm)

Criticality index (v1 Eq. 6): C_1 = W(F_1), C_i = W(F_i) / W(F_{i-1}), so the product of C_1 ... C_i is W(F_i).
As the paper does, one perturbation x' (untargeted PGD on the model's output) serves all layers.

F_{i-1} is the previous layer in forward order. Where a network branches, that is not what layer i reads: with
`predecessor="input"` C_i is W(F_i) / W(I_i), I_i the very tensor that enters layer i (for layer 1 the image). In a
plain chain of layers both agree from layer 2 on; elsewhere the product of the C_i is then no weakness. Of several
tensors I_i is the first that depends on the image: behind a learned query, attention's key. Where I_i does not
change though F_i does, C_i is undefined.

Two properties to know before reading a ranking. C_1 is not a ratio (but with `predecessor="input"`), so its
place among the others is arbitrary. And W shrinks with N_i only as 1/sqrt(N_i) once the change of a single
element is given, so C is inflated by sqrt(N_{i-1}/N_i) wherever the feature gets smaller: layers after pooling or
stride rank high by construction. `normaliser="sqrt"` or "relative" and `tap="norm"` do not have this bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clat.attacks.ascent import check_found
from clat.attacks.pgd import checked_cross_entropy, run_pgd
from clat.attacks.settings import Attack
from clat.core.checks import check_images
from clat.core.errors import ClatError, unknown
from clat.core.units import Size
from clat.criticality.report import CriticalityReport, CriticalityRow
from clat.network import modes
from clat.network.edge import accept_on_device, as_measured, beside
from clat.network.features import TAPS, feature_distance, feature_norm, read_features
from clat.network.guard import input_channels
from clat.network.layers import Layer, enumerate_layers
from clat.network.logits import check_logits
from clat.network.random_states import random_states, rewinder

NORMALISERS = ("numel", "sqrt", "relative", "none")
"""What the change of a feature is divided by: `numel` N_i (the paper's weakness), `sqrt` sqrt(N_i), `relative` the
norm of the clean feature (which makes the index free of scale and of size), `none` nothing (the paper's nu)."""

METRICS = ("weakness", "curvature")
"""`weakness`: Eq. 5. `curvature`: nu_i = ||J_i(x')^T (F_i(x') - F_i(x))||_2 / ||x' - x||_2 with the exact
Jacobian (v1 Eq. 4, v2 Appendix E), of which the weakness is the paper's approximation; it costs one backward
pass a layer, and the paper leaves it for networks of mixed layer types such as vision transformers. The paper
divides the weakness by N_i and nu by nothing. Its x' maximises each layer's own term; here one x' serves all."""

PREDECESSORS = ("forward", "input")
"""What the W of a layer is divided by: `forward`, the W of the layer before it in forward order (the paper);
`input`, the W of the tensor that enters it, which in a network with branches is another feature."""


def measure_criticality(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    alpha: Size | None = None,
    steps: int = 10,
    norm: str = "linf",
    x_adv: Tensor | None = None,
    normaliser: str | None = None,
    tap: str = "output",
    metric: str = "weakness",
    predecessor: str = "forward",
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
) -> CriticalityReport:
    """Return the weakness and the criticality index of every layer, from one batch.

    Features are compared in evaluation mode and float32. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K).
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the PGD attack on the output that makes x', in the unit of `x`: a number or a fraction
            such as "8/255".
        alpha: the length of its steps, in the same unit; None: 2.5 * eps / steps.
        steps: its gradient steps, at least 1.
        norm: its norm, "linf" or "l2".
        x_adv: examples to use instead of the attack's, of the shape of `x`.
        normaliser: what a change is divided by, see NORMALISERS; None: N_i for the weakness, nothing for the
            curvature, as in the paper.
        tap: where a feature is read; see `clat.network.features.TAPS`.
        metric: "weakness" (the paper's) or "curvature"; see METRICS.
        predecessor: what C compares with, "forward" (the paper's) or "input"; see PREDECESSORS.
        seed: seed of the attack's start.
        layers: some of `enumerate_layers`, to choose which are ranked; None: all of them. Of some, the layer before
            is the one before it among these.

    Returns:
        A report with W and C of every layer, and the accuracies on x and x'.

    Raises:
        ClatError: for images outside [0, 1], unknown options, a perturbation of zero, or values that are not
            finite.
    """
    normaliser = default_normaliser(metric) if normaliser is None else normaliser
    check_names(normaliser, tap, metric, predecessor)
    model, x, y = accept_on_device(model, x, y)
    attack = Attack.parse(eps=eps, alpha=alpha, steps=steps, norm=norm)
    layers = enumerate_layers(model, x) if layers is None else sorted(layers, key=lambda layer: layer.index)
    if not layers:
        raise ClatError("there is no layer to rank: leave layers out, or take them from enumerate_layers")
    with modes.attack_mode(model):
        if x_adv is None:
            x_adv = run_pgd(model, x, y, attack, seed=seed, loss=checked_cross_entropy)
            check_found(x_adv)
        elif x_adv.shape != x.shape:
            raise ClatError(f"x_adv has shape {tuple(x_adv.shape)}, expected that of x, {tuple(x.shape)}")
        check_images(x_adv, input_channels(model))
        (x_adv,) = beside(model, as_measured(model, x_adv))
        if torch.equal(x_adv, x):
            raise ClatError("x_adv equals x: a criticality needs a perturbation; is eps or the gradient zero?")
        with torch.autocast(x.device.type, enabled=False):
            measure = _weaknesses if metric == "weakness" else _curvatures
            measured, logits = measure(model, x, x_adv, layers, tap, normaliser, predecessor == "input")
    means = [values.double().mean().item() for values in measured]
    for layer, value in zip((*layers, *layers), means, strict=False):
        if not math.isfinite(value):
            raise ClatError(f"layer '{layer.name}' gives NaN or infinite features: are the model's weights finite?")
    clean_accuracy, adversarial_accuracy = _accuracies(logits, y)
    weakness, entering = means[: len(layers)], means[len(layers) :]
    before: list[float | None] = [*entering] or [None, *weakness[:-1]]
    rows = [
        CriticalityRow(
            index=layer.index,
            name=layer.name,
            kind=layer.kind,
            num_params=layer.num_params,
            feature_shape=layer.feature_shape,
            weakness=weakness[i],
            criticality=weakness[i]
            if (previous := before[i]) is None
            else _ratio(weakness[i], previous, read=bool(entering)),
            input_weakness=entering[i] if entering else None,
        )
        for i, layer in enumerate(layers)
    ]
    return CriticalityReport(
        rows=rows,
        eps=attack.threat.text,
        alpha=attack.step_size,
        steps=steps,
        norm=norm,
        n=len(x),
        normaliser=normaliser,
        tap=tap,
        metric=metric,
        predecessor=predecessor,
        seed=seed,
        clean_accuracy=clean_accuracy,
        adversarial_accuracy=adversarial_accuracy,
    )


def default_normaliser(metric: str) -> str:
    """Return what the paper divides by: N_i under "weakness", nothing under "curvature".

    Args:
        metric: one of METRICS.

    Returns:
        One of NORMALISERS.
    """
    return "none" if metric == "curvature" else "numel"


def check_names(normaliser: str, tap: str, metric: str, predecessor: str) -> None:
    """Raise an error, with the nearest valid name, for a name that does not exist.

    Args:
        normaliser: one of NORMALISERS.
        tap: one of `clat.network.features.TAPS`.
        metric: one of METRICS.
        predecessor: one of PREDECESSORS.

    Raises:
        ClatError: for the first that is none.
    """
    for kind, name, valid in (
        ("normaliser", normaliser, NORMALISERS),
        ("feature tap", tap, TAPS),
        ("metric", metric, METRICS),
        ("predecessor", predecessor, PREDECESSORS),
    ):
        if name not in valid:
            raise unknown(kind, name, valid)


def _ratio(value: float, previous: float, *, read: bool) -> float:
    """Return `value` / `previous`; infinite after a layer that does not respond at all, NaN between two such.

    `read`: `previous` is of what enters the layer. Where that does not change and the layer does, the layer reads
    something else too, and the ratio says nothing: NaN.
    """
    if previous > 0:
        return value / previous
    return math.inf if value > 0 and not read else math.nan


def _weaknesses(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    layers: Sequence[Layer],
    tap: str,
    normaliser: str,
    inputs: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Return per layer the normalised change of each sample, (N,), and the logits of x and x_adv, (2 N, classes).

    With `inputs`, the changes of what enters each layer follow those of the layers. One forward pass over both
    halves; each change is reduced where it arises, so that never more than one layer's features are held. A network
    that normalises by the batch sees each half as the batch that it is, and one that draws sees both under the same
    draws.
    """

    def change(feature: Tensor, layer: Layer) -> Tensor:
        before, after = feature.chunk(2)
        return feature_distance(after, before) / _normalisation(before, normaliser)

    rewind = rewinder(model)
    if all(norm.running_mean is not None for norm in modes.batch_norms(model)):
        with torch.no_grad():
            both, states = torch.cat([x, x_adv]), random_states(model)
            changes, logits = read_features(model, both, layers, tap=tap, reduce=change, inputs=inputs)
        if random_states(model) == states:
            return changes, logits
    halves = []
    for part in (x, x_adv):
        rewind()
        with torch.no_grad():
            halves.append(read_features(model, part, layers, tap=tap, inputs=inputs))
    clean, moved = halves
    assert clean.logits is not None
    assert moved.logits is not None
    pairs = zip(clean.values, moved.values, strict=True)
    found = [feature_distance(after, before) / _normalisation(before, normaliser) for before, after in pairs]
    return found, torch.cat([clean.logits, moved.logits])


def _curvatures(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    layers: Sequence[Layer],
    tap: str,
    normaliser: str,
    inputs: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Return per layer, and with `inputs` of what enters each, nu_i of each sample.

    That is the backward pass of <F_i(x'), F_i(x') - F_i(x)>, second factor fixed.
    """
    rewind = rewinder(model)
    with torch.no_grad():
        clean, logits = read_features(model, x, layers, tap=tap, inputs=inputs)
    rewind()  # a network that draws at random moves by x' alone
    point = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        moved, moved_logits = read_features(model, point, layers, tap=tap, inputs=inputs)
    length = (x_adv - x).flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    result = []
    for i, (after, before) in enumerate(zip(moved, clean, strict=True)):
        if not after.requires_grad:  # no pixel reaches this layer
            result.append(torch.zeros(len(x), device=x.device))
            continue
        (pulled,) = torch.autograd.grad(
            after, point, grad_outputs=(after - before).detach(), retain_graph=i + 1 < len(moved)
        )
        result.append(pulled.flatten(1).norm(dim=1) / length / _normalisation(before, normaliser))
    if logits is None or moved_logits is None:
        return result, None
    return result, torch.cat([logits, moved_logits.detach()])


def _normalisation(clean: Tensor, normaliser: str) -> Tensor | float:
    elements = clean.shape[1]
    if normaliser == "none":
        return 1.0
    if normaliser == "numel":
        return float(elements)
    if normaliser == "sqrt":
        return math.sqrt(elements)
    found = feature_norm(clean)
    return found.clamp_min(torch.finfo(found.dtype).tiny)


def _accuracies(both: Tensor | None, y: Tensor) -> tuple[float, float]:
    """Return the accuracy on x and on x_adv."""
    check_logits(both, torch.cat([y, y]))
    assert both is not None
    if not torch.isfinite(both).all():
        raise ClatError("the model returns NaN or infinite logits")
    clean, moved = ((half.argmax(1) == y).double().mean().item() for half in both.chunk(2))
    return clean, moved
