"""Layers ranked by what their way from the initial to the final weights is worth.

Plain rewinding (Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022): how much accuracy is lost when
one layer goes back to its initial weights theta0 and the others stay.

Module criticality (Chatterji, Neyshabur, Sedghi, ICLR 2020): with final weights thetaF and u ~ N(0, sigma^2 I),

    mu(threshold) = min over alpha in [0, 1], sigma > 0 of alpha^2 ||thetaF - theta0||_2^2 / sigma^2
                    such that E_u L((1 - alpha) theta0 + alpha thetaF + u) <= threshold

How sure we are of it: the paper's own text was not at hand. Objective and constraint agree with published code of
the paper's measures (in the Meta-Dataset repository) and with a secondary account, which says that L is the 0-1
loss on training data and the threshold an absolute one. The code takes 1.01 times the loss of the final network,
ten draws of u, and even grids of eleven alphas in [0, 1] and eleven sigmas up to 1. Which threshold and which grids
the paper's own experiments used we do not know.

Here L is the 0-1 loss or the cross-entropy; the threshold is the final network's loss plus a slack (an
adversarially trained network's error is far from 0), or absolute; alpha is even on [0, 1]; and sigma is a geometric
grid, for each layer in units of the root mean square of its final weights, since one step of the even grid is
already larger than most weights. A layer is its weight and bias. BatchNorm keeps its trained scale and statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.progress import counted
from clat.core.seeds import generator
from clat.criticality.probing import (
    Weights,
    check_ranking,
    combined,
    joint_norm,
    layer_parameters,
    loss_and_accuracy,
    measuring,
    real_parts,
)
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.models.files import fit_state
from clat.network.edge import accept_on_device
from clat.network.exchange import copied, tensors_of
from clat.network.layers import Layer, enumerate_layers
from clat.network.swap import swapped

REWINDING_LOSSES = ("error", "cross-entropy")
SIGMAS = tuple(10 ** (-3 + k / 3) for k in range(10))
"""From 0.001 to 1, in units of the root mean square of a layer's final weights."""


def measure_rewinding_drop(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int = 512,
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
) -> RankingReport:
    """Return the accuracy that is lost when each layer alone goes back to its initial weights.

    The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        initial: the state dict at the start of training, named as the model's or as in a weight file.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        batch_size: images of one forward pass.
        seed: only recorded, as nothing is drawn.
        layers: some of `enumerate_layers`; None: all of them.

    Returns:
        A report whose values are differences of accuracies, in [-1, 1].

    Raises:
        ClatError: if `initial` does not fit, or equals the model in every layer.
    """
    model, x, y = accept_on_device(model, x, y)
    layers = enumerate_layers(model, x) if layers is None else list(layers)
    check_ranking(x, layers, batch_size)
    first = _first_weights(model, initial, layers)
    with measuring(model, x.device) as cost:
        loss, accuracy = loss_and_accuracy(model, {}, x, y, batch_size)
        rows = []
        for layer in counted("rewinding-drop: layers", layers):
            remaining = loss_and_accuracy(model, first[layer.name], x, y, batch_size)[1]
            moved = joint_norm(combined(torch.sub, layer_parameters(model, layer), first[layer.name]))
            details = {"distance": moved, "accuracy": remaining}
            drop = accuracy - remaining
            rows.append(RankingRow(layer.index, layer.name, layer.kind, layer.num_params, drop, details))
    return RankingReport(
        ranking="rewinding-drop",
        measure="accuracy lost by going back to the initial weights",
        rows=rows,
        n=len(x),
        seed=seed,
        settings={},
        baseline={"accuracy": accuracy, "loss": loss},
        cost=cost,
    )


def measure_rewinding_criticality(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    loss: Literal["error", "cross-entropy"] = "error",
    slack: float = 0.01,
    threshold: float | None = None,
    alphas: int = 11,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    batch_size: int = 512,
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
) -> RankingReport:
    """Return the module criticality mu of every layer (Chatterji, Neyshabur, Sedghi 2020).

    Of the pairs (alpha, sigma), the one that meets the threshold at the smallest value is found exactly; alpha = 0,
    whose value is 0 for every sigma, is tried with the smallest alone. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        initial: the state dict at the start of training, named as the model's or as in a weight file.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        loss: L, "error" (0-1) or "cross-entropy".
        slack: how far the threshold lies above the network's own loss.
        threshold: the largest loss allowed; None: by `slack`.
        alphas: how many, even on [0, 1], at least 2.
        sigmas: standard deviations of the noise, see SIGMAS.
        draws: draws of u, the same ones scaled by each sigma.
        batch_size: images of one forward pass.
        seed: seed of the noise.
        layers: some of `enumerate_layers`; None: all of them.

    Returns:
        A report whose values have no unit: 0 for an unchanged layer, infinite where nothing on the grid meets the
        threshold.

    Raises:
        ClatError: if `initial` does not fit or equals the model in every layer, or for settings that make no sense.
    """
    model, x, y = accept_on_device(model, x, y)
    layers = enumerate_layers(model, x) if layers is None else list(layers)
    check_ranking(x, layers, batch_size)
    check_search(loss, alphas, draws, sigmas)
    first = _first_weights(model, initial, layers)
    with measuring(model, x.device) as cost:
        judge = _loss(model, x, y, loss, batch_size)
        final = judge({})
        allowed = final + slack if threshold is None else threshold
        rows = []
        for layer in counted("rewinding: layers", layers):
            valley = _Valley(model, layer, first[layer.name], seed)
            found = valley.narrowest(judge, allowed, alphas, sigmas, draws)
            details = {"distance": valley.distance}
            if found is not None:
                details |= {"alpha": found[1], "sigma": found[2]}
            value = math.inf if found is None else found[0]
            rows.append(RankingRow(layer.index, layer.name, layer.kind, layer.num_params, value, details))
    return RankingReport(
        ranking="rewinding",
        measure="module criticality, the shape of the valley from the initial weights",
        rows=rows,
        n=len(x),
        seed=seed,
        settings={
            "loss": loss,
            "threshold": allowed,
            "alphas": alphas,
            "sigmas": f"{len(sigmas)} from {min(sigmas):g} to {max(sigmas):g} of the weights' root mean square",
            "draws": draws,
        },
        baseline={loss: final},
        cost=cost,
    )


def check_search(loss: str, alphas: int, draws: int, sigmas: Sequence[float] = SIGMAS) -> None:
    """Raise an error for a loss that does not exist, or a grid without points.

    Args:
        loss: one of REWINDING_LOSSES.
        alphas: points between the initial and the final weights, at least 2.
        draws: draws of the noise at each of them, at least 1.
        sigmas: standard deviations of the noise, above 0.

    Raises:
        ClatError: with what does not fit.
    """
    if loss not in REWINDING_LOSSES:
        raise unknown("loss of the rewinding", loss, REWINDING_LOSSES)
    if alphas < 2 or draws < 1 or not sigmas or not all(sigma > 0 for sigma in sigmas):
        raise ClatError("rewinding needs at least 2 alphas, 1 draw, and sigmas above 0")


Loss = Callable[[Weights], float]
"""L as a function of one layer's weights."""


def _loss(model: nn.Module, x: Tensor, y: Tensor, kind: str, batch_size: int) -> Loss:
    def value(weights: Weights) -> float:
        loss, accuracy = loss_and_accuracy(model, weights, x, y, batch_size)
        if kind == "error":
            return 1 - accuracy
        return loss if math.isfinite(loss) else math.inf

    return value


class _Valley:
    """The weights between a layer's initial and final ones, and noise around them."""

    def __init__(self, model: nn.Module, layer: Layer, first: Weights, seed: int) -> None:
        self.first, self.final = first, layer_parameters(model, layer)
        self.distance = joint_norm(combined(torch.sub, self.final, first))
        numbers = sum(real_parts(tensor).numel() for tensor in self.final.values())
        self.unit = joint_norm(self.final) / math.sqrt(numbers)
        self.place = (seed, "rewinding", layer.name)

    def narrowest(
        self, loss: Loss, allowed: float, alphas: int, sigmas: Sequence[float], draws: int
    ) -> tuple[float, float, float] | None:
        """Return (value, alpha, sigma) of the smallest value within `allowed`, or None.

        Sigma is in the weights' units.
        """
        if self.distance == 0:
            return 0.0, 0.0, max(sigmas) * self.unit
        unit = self.unit or 1.0  # a layer that ended at zero has no scale of its own
        pairs = [(0.0, min(sigmas) * unit)]
        pairs += [(k / (alphas - 1), sigma * unit) for k in range(1, alphas) for sigma in sigmas]
        # By value, so that the first that meets the threshold is the minimum.
        for alpha, sigma in sorted(pairs, key=lambda pair: pair[0] / pair[1]):
            if self._within(loss, alpha, sigma, allowed, draws):
                return (alpha * self.distance / sigma) ** 2, alpha, sigma
        return None

    def _within(self, loss: Loss, alpha: float, sigma: float, allowed: float, draws: int) -> bool:
        """Return whether the mean loss over the draws stays within `allowed`; left as soon as it no longer can."""
        between = combined(lambda start, end: start + alpha * (end - start), self.first, self.final)
        total = 0.0
        for draw in range(draws):
            noise = generator(*self.place, draw)
            total += loss({name: tensor + sigma * _noise_like(tensor, noise) for name, tensor in between.items()})
            if total > allowed * draws + 1e-12:  # a sum is rounded otherwise than a product
                return False
        return True


def _noise_like(tensor: Tensor, draw: torch.Generator) -> Tensor:
    """Return standard normal numbers, of a complex tensor for its real and imaginary parts alike."""
    drawn = torch.randn(real_parts(tensor).shape, generator=draw)
    return (torch.view_as_complex(drawn) if tensor.is_complex() else drawn).to(tensor)


def _first_weights(
    model: nn.Module, initial: Mapping[str, Tensor], layers: Sequence[Layer]
) -> dict[str, dict[str, Tensor]]:
    """Return for each layer its initial weights, by their names in the model."""
    with swapped(model, copied(tensors_of(model))):  # a deep copy fails where a hook computes weights
        fit_state(model, initial, "of the start")
        first = {layer.name: layer_parameters(model, layer) for layer in layers}
    if all(
        torch.equal(tensor, first[layer.name][name])
        for layer in layers
        for name, tensor in layer_parameters(model, layer).items()
    ):
        raise ClatError("the initial weights equal the model's in every layer: there is nothing to rewind")
    return first
