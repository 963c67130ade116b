"""Find where a network is no chain of layers, each reading what the one before it gave, as the paper takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clat.network import modes
from clat.network.graph import nodes_behind
from clat.network.layers import Layer
from clat.network.outputs import first_tensor, tensor_arguments


def layers_off_chain(model: nn.Module, x: Tensor, layers: Sequence[Layer]) -> list[str]:
    """Return the names of the layers that read something else than the layer before them in `layers` gave.

    A layer is on the chain if all that its input has of the image came through the layer before it, whatever lies
    between (normalisation, activation, pooling, layers that are not in `layers`). After a residual addition or a
    concatenation it is not. Layer 1 always is. Leaves no trace in the model.

    Args:
        model: the network, whose layers were found in it.
        x: images, (N, C, H, W) in [0, 1], of which one is used.
        layers: in forward order, from `enumerate_layers`.

    Returns:
        Names of some of `layers`, in their order.
    """
    sources: dict[int, int] = {}
    leaves: list[Tensor] = []
    read: dict[int, set[int]] = {}
    passed = Counter[int]()

    def cut(tensor: Tensor, position: int) -> Tensor:
        """Return the same values, which a walk along the autograd graph ends at and knows by `position`."""
        leaf = tensor.detach().clone().requires_grad_(True)
        leaves.append(leaf)  # kept, so that no other tensor gets its id
        sources[id(leaf)] = position
        return leaf.clone()  # no leaf, so that the network may change it in place

    def before(position: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if passed[position] == layers[position - 1].call and position not in read:
            given = tensor_arguments(args, named).values()
            read[position] = {sources[leaf] for tensor in given for leaf in _leaves(tensor) if leaf in sources}

    def after(position: int, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return output
        passed[position] += 1
        if passed[position] <= layers[position - 1].call or position in sources.values():
            return output
        if isinstance(output, Tensor):
            return cut(output, position)
        if type(output) in (tuple, list) and output[0] is tensor:
            return type(output)([cut(tensor, position), *output[1:]])
        return output

    modules = dict(model.named_modules())
    handles = []
    for position, layer in enumerate(layers, start=1):
        module = modules[layer.name]
        handles += [
            module.register_forward_pre_hook(lambda m, a, n, p=position: before(p, a, n), with_kwargs=True),
            module.register_forward_hook(lambda m, a, out, p=position: after(p, out)),
        ]
    try:
        with modes.attack_mode(model), torch.enable_grad():
            model(cut(x[:1], 0))
    finally:
        for handle in handles:
            handle.remove()
    return [layer.name for i, layer in enumerate(layers[1:], start=2) if read.get(i) != {i - 1}]


def _leaves(tensor: Tensor) -> set[int]:
    """Return the ids of the leaf tensors that a tensor was computed from."""
    return {id(node.variable) for node in nodes_behind([tensor.grad_fn]) if hasattr(node, "variable")}
