"""The network with the weights of one layer replaced, which never touches the network's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.network import modes
from clat.network.cost import Cost, metered
from clat.network.layers import Layer
from clat.network.logits import check_logits
from clat.network.swap import swapped

Weights = Mapping[str, Tensor]
"""Parameters by their names in the model."""


def check_ranking(x: Tensor, layers: Sequence[Layer], batch_size: int) -> None:
    """What every ranking asks beside a network and images (`clat.network.edge`)."""
    if len(x) == 0:
        raise ClatError("the batch holds no image: a ranking needs some to measure on")
    if not layers:
        raise ClatError("there is no layer to rank: leave layers out, or take them from enumerate_layers")
    if batch_size < 1:
        raise ClatError(f"batch_size is {batch_size}: expected at least 1")


@contextmanager
def measuring(model: nn.Module, device: torch.device) -> Iterator[Cost]:
    """The model in evaluation mode, in float32, left without a trace; the yielded cost is complete on leaving."""
    with modes.attack_mode(model), torch.autocast(device.type, enabled=False), metered(model, memory=False) as cost:
        yield cost


def layer_parameters(model: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """The layer's weight and bias (and, for attention, its output projection), by their names in the model."""
    own = {id(parameter) for parameter in model.get_submodule(layer.name).parameters()}
    return {name: p.detach() for name, p in model.named_parameters() if id(p) in own}


def layer_weights(model: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """The layer's weight tensors without its biases: one for a convolution or a linear layer."""
    return {name: weight for name, weight in layer_parameters(model, layer).items() if weight.dim() > 1}


def logits_with(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's output where these weights stand in for its own; gradients flow to them."""
    with swapped(model, weights):
        logits: Tensor = model(x)
    return logits


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(size), y.split(size), strict=True)


def loss_and_accuracy(
    model: nn.Module, weights: Weights, x: Tensor, y: Tensor, batch_size: int
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on (x, y) where `weights` stand in for the model's own."""
    loss, correct = 0.0, 0
    with torch.no_grad():
        for images, labels in batches(x, y, batch_size):
            logits = logits_with(model, weights, images)
            check_logits(logits, labels)
            loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(x), correct / len(x)


def joint_norm(tensors: Mapping[str, Tensor]) -> float:
    """||(t_1, t_2, ...)||_2 of all tensors as one vector, in double precision."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


def combined(operation: Callable[..., Tensor], *weights: Weights) -> dict[str, Tensor]:
    """`operation` on the tensors of the same name."""
    return {name: operation(*(each[name] for each in weights)) for name in weights[0]}
