"""The multiplications that a training step cannot do without, counted from the layers.

In a layer with M multiplications a sample, forward, the gradient towards its input and the gradient towards its
weights cost M each. What must run: the attack forward and back to the image, as far as its value needs the network;
the loss forward, back to the first layer that moves, and the weight gradients of the layers that move. Everything
else (normalisation, nonlinearities, projections of the perturbation) moves memory and multiplies next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.network import modes
from clat.network.layers import Layer
from clat.network.outputs import first_tensor
from clat.objectives import FAT, Clat, FastAT, Mart, Objective, PgdAT, ScoreAT, ScoreTrades, Standard, Trades


@dataclass(frozen=True)
class Multiplications:
    """Count of one convolution or linear layer for one sample's forward pass.

    Attributes:
        name: the layer's name in the network.
        count: multiplications.
    """

    name: str
    count: int


COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose multiplications are counted."""


def layer_multiplications(model: nn.Module, x: Tensor) -> list[Multiplications] | None:
    """Return the multiplications of every convolution and linear layer, shortcuts and classifier included.

    Args:
        model: the network; it runs once, in evaluation mode, and is left as it was.
        x: images (N, C, H, W), in [0, 1].

    Returns:
        The layers that ran on `x`, in forward order; None where others multiply as well, such as attention and
        transposed convolutions, which nobody has counted here.
    """
    found: list[Multiplications] = []
    others: list[nn.Module] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(module, COUNTED):
            others.append(module)
            return
        weight, result = module.weight, first_tensor(output)
        assert isinstance(weight, Tensor)
        assert result is not None
        if isinstance(module, nn.Linear):
            count = result.numel() // len(x) // weight.shape[0] * weight.numel()
        else:
            places = result[0, 0].numel()  # each output pixel takes every weight once
            count = places * weight.numel()
        found.append(Multiplications(names[module], count))

    hooks = [
        module.register_forward_hook(note) for module in names if isinstance(module, COUNTED) or _multiplies(module)
    ]
    try:
        with modes.attack_mode(model), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return None if others else found


def _multiplies(module: nn.Module) -> bool:
    """Return whether a module that is not counted has a weight of its own that is more than a scale of channels."""
    alone = isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None
    weights = any(weight.dim() > 1 for weight in module.parameters(recurse=False))
    return alone and weights and not isinstance(module, nn.LayerNorm | nn.Embedding)


def step_floor(
    objective: Objective, layers: Sequence[Multiplications] | None, selected: Sequence[Layer]
) -> float | None:
    """Return the multiplications that one training step needs at least, in forward passes through the network.

    Args:
        objective: the objective, with its number of attack steps.
        layers: what `layer_multiplications` returned for the network.
        selected: the layers that move, in forward order; none: all of them.

    Returns:
        Multiplications for one sample over those of its forward pass; None for an objective whose needs are not
        written down here, and where not all layers of the network or not all that move are counted.
    """
    names = [layer.name for layer in layers or ()]
    if not layers or any(layer.name not in names for layer in selected):
        return None
    whole = sum(layer.count for layer in layers)
    trainable = [names.index(layer.name) for layer in selected] or list(range(len(layers)))
    first, last = trainable[0], trainable[-1]

    def forward(end: int = len(layers)) -> int:
        return sum(layer.count for layer in layers[:end])

    def back_to_weights(end: int = len(layers)) -> int:
        """Return the multiplications of the moving weights' gradients, and of the inputs' above the first."""
        return sum(layer.count for layer in layers[first + 1 : end]) + sum(layers[i].count for i in trainable)

    loss = forward() + back_to_weights()
    steps = getattr(objective, "steps", 0)
    if isinstance(objective, Clat):
        deep, inputs = last + 1, (objective.ce_input, objective.feature_input)
        reach = {("clean", "feature"): forward(deep), ("pgd", "pgd"): forward()}.get(inputs)
        if reach is None:
            return None
        return (2 * steps * reach + loss + forward(deep) + back_to_weights(deep)) / whole
    if isinstance(objective, Standard):
        return loss / whole
    if isinstance(objective, FastAT):
        return (2 * forward() + loss) / whole
    if isinstance(objective, FAT):
        return None  # whose attack stops early
    if isinstance(objective, Trades | ScoreTrades):
        return (2 * steps * forward() + 2 * loss + forward()) / whole
    if isinstance(objective, PgdAT | ScoreAT):
        return (2 * steps * forward() + loss) / whole
    if isinstance(objective, Mart):
        return (2 * steps * forward() + 2 * loss) / whole
    return None
