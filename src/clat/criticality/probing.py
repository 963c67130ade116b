"""Passes of a network with the weights of one layer replaced, which never touch the network's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.core.checks import at_least
from clat.core.errors import ClatError
from clat.network import modes
from clat.network.cost import Cost, metered
from clat.network.layers import Layer
from clat.network.logits import check_logits
from clat.network.swap import swapped

Weights = Mapping[str, Tensor]
"""Parameters by their names in the model."""


def check_ranking(x: Tensor, layers: Sequence[Layer], batch_size: int) -> None:
    """Raise an error unless there is something to rank, on something.

    A network and images are looked at where they come in (`clat.network.edge`).

    Args:
        x: images, (N, C, H, W).
        layers: the layers to rank.
        batch_size: images of one forward pass.

    Raises:
        ClatError: for no images, no layers, or a batch size below 1.
    """
    if len(x) == 0:
        raise ClatError("the batch holds no image: a ranking needs some to measure on")
    if not layers:
        raise ClatError("there is no layer to rank: leave layers out, or take them from enumerate_layers")
    at_least("batch_size", batch_size, 1)


@contextmanager
def measuring(model: nn.Module, device: torch.device) -> Iterator[Cost]:
    """Put the model into evaluation mode and float32, and leave it without a trace.

    Args:
        model: the network to measure.
        device: where it is.

    Yields:
        The cost of what is done inside, complete on leaving.
    """
    with modes.attack_mode(model), torch.autocast(device.type, enabled=False), metered(model, memory=False) as cost:
        yield cost


def layer_parameters(model: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """Return the layer's weight and bias (and, for attention, its output projection).

    Args:
        model: the network.
        layer: one of its layers.

    Returns:
        The parameters, detached, by their names in the model.
    """
    own = {id(parameter) for parameter in model.get_submodule(layer.name).parameters()}
    return {name: p.detach() for name, p in model.named_parameters() if id(p) in own}


def layer_weights(model: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """Return the layer's weight tensors without its biases: one for a convolution or a linear layer.

    Args:
        model: the network.
        layer: one of its layers.

    Returns:
        The weights, detached, by their names in the model.
    """
    return {name: weight for name, weight in layer_parameters(model, layer).items() if weight.dim() > 1}


def logits_with(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """Return the model's output where other weights stand in for its own.

    Args:
        model: the network, in the mode to measure in.
        weights: some of its parameters, by name; gradients flow to them.
        x: images, (N, C, H, W) in [0, 1].

    Returns:
        Logits, (N, K).
    """
    with swapped(model, weights):
        logits: Tensor = model(x)
    return logits


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return parts of images and labels, in order.

    Args:
        x: images, (N, C, H, W).
        y: labels, (N,).
        size: images of a part, but for the last.

    Returns:
        Pairs of images and labels.
    """
    return zip(x.split(size), y.split(size), strict=True)


def loss_and_accuracy(
    model: nn.Module, weights: Weights, x: Tensor, y: Tensor, batch_size: int
) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy where other weights stand in for the model's own.

    Args:
        model: the network, in the mode to measure in.
        weights: some of its parameters, by name; empty: the network as it is.
        x: images, (N, C, H, W) in [0, 1].
        y: labels, (N,) int64.
        batch_size: images of one forward pass.

    Returns:
        Loss and accuracy, the latter in [0, 1].

    Raises:
        ClatError: if the output is no logits, or does not fit the labels.
    """
    loss, correct = 0.0, 0
    with torch.no_grad():
        for images, labels in batches(x, y, batch_size):
            logits = logits_with(model, weights, images)
            check_logits(logits, labels)
            loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(x), correct / len(x)


def joint_norm(tensors: Mapping[str, Tensor]) -> float:
    """Return ||(t_1, t_2, ...)||_2 of all tensors as one vector, in double precision.

    Args:
        tensors: by name; none: 0.

    Returns:
        The length.
    """
    return sum(float(real_parts(tensor).double().square().sum()) for tensor in tensors.values()) ** 0.5


def real_parts(tensor: Tensor) -> Tensor:
    """Return the real numbers that a tensor holds.

    Args:
        tensor: of any type.

    Returns:
        The tensor itself; of a complex one, (...), its real and imaginary parts, (..., 2).
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def combined(operation: Callable[..., Tensor], *weights: Weights) -> dict[str, Tensor]:
    """Return the results of an operation on the tensors of the same name.

    Args:
        operation: takes as many tensors as there are `weights`.
        weights: tensors by name, each with the names of the first.

    Returns:
        What it returns, by name.
    """
    return {name: operation(*(each[name] for each in weights)) for name in weights[0]}
