"""Find the heads of a network: the layers whose outputs are logits, or go nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clat.network import modes
from clat.network.graph import nodes_behind
from clat.network.outputs import first_tensor, tensor_arguments


def find_heads(model: nn.Module, x: Tensor, calls: Mapping[str, int]) -> set[str]:
    """Return which layers are heads: no other layer reads them, and they give logits or nothing that is in them.

    Those of a network with several outputs, whether it returns them side by side or takes their mean; and one whose
    outputs become the logits without further parameters: of a single logit for two classes, of more classes than
    are kept, or of several tokens that are averaged. Leaves no trace in the model.

    Args:
        model: any network.
        x: one image, (1, C, H, W) in [0, 1].
        calls: of the network's layers, all that have run, by name: which of its calls counts, from 0.

    Returns:
        Some of the names.
    """
    given: dict[str, Tensor] = {}
    reading: list[Any] = []

    def before(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if passed[name] == calls[name]:
            reading.extend(value.grad_fn for value in tensor_arguments(args, named).values())

    def after(name: str, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None:
            return
        if passed[name] == calls[name]:
            given[name] = tensor
        if passed[name] >= calls[name]:
            made.setdefault(tensor.grad_fn, name)
        passed[name] += 1

    made: dict[Any, str] = {}
    passed = Counter[str]()
    handles = []
    for name in calls:
        module = model.get_submodule(name)
        handles += [
            module.register_forward_pre_hook(lambda m, a, n, name=name: before(name, a, n), with_kwargs=True),
            module.register_forward_hook(lambda m, a, out, name=name: after(name, out)),
        ]
    try:
        with modes.attack_mode(model), torch.enable_grad():
            for parameter in _others(model, calls):  # to be seen in the graph where they stand behind a layer
                parameter.requires_grad_(True)
            logits = first_tensor(model(x.detach().clone().requires_grad_(True)))
    finally:
        for handle in handles:
            handle.remove()
    if logits is None or None in made:  # what no gradient reaches, as in a reentrant checkpoint, shows no readers
        return set()
    read, used = (
        {made[node] for node in nodes_behind(nodes) if node in made} for nodes in (reading, [logits.grad_fn])
    )
    unread = set(made.values()) - read
    heads = {
        name
        for name in unread
        if given[name].dim() == 2 and (given[name].shape == logits.shape or name not in used)
    }
    return heads | {
        name
        for name in (unread & used) - heads
        if _become(given[name], logits) and not _parameters_behind(logits.grad_fn, given[name].grad_fn)
    }


def _others(model: nn.Module, layers: Iterable[str]) -> list[nn.Parameter]:
    """Return the parameters that are in none of the layers."""
    inside = {parameter for name in layers for parameter in model.get_submodule(name).parameters()}
    return [one for one in model.parameters() if one not in inside and one.is_floating_point()]


def _become(output: Tensor, logits: Tensor) -> bool:
    """Return whether the outputs of a layer can be the logits but for their form."""
    classes = logits.shape[-1]
    if output.dim() != 2:
        return output.dim() == 3 and output.shape[-1] == classes
    if output.shape[1] == 1:
        return classes == 2
    if len(output) != len(logits) or len(logits[0].unique()) < classes:  # equal ones, such as 0, tell nothing
        return False
    return bool((output[:, :, None] == logits[:, None, :]).all(0).any(0).all())


def _parameters_behind(last: Any, output: Any) -> bool:
    """Return whether parameters that require a gradient enter behind a layer's output, or beside it."""
    return any(
        hasattr(node, "variable") and isinstance(node.variable, nn.Parameter)
        for node in nodes_behind([last], without=output)
    )
