"""Layers whose weight is no parameter of theirs: a hook or a parametrization computes it from others."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clat.core.errors import ClatError
from clat.network import modes

REMEDIES = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm",
    "BasePruningMethod": "torch.nn.utils.prune.remove",
}
"""What takes a hook off again and leaves a plain weight, by the class of the hook or a base of it."""

PARAMETRIZED = "torch.nn.utils.parametrize.remove_parametrizations"
"""The same for a parametrization."""


def plain_weight(model: nn.Module, name: str, purpose: str, key: str = "weight") -> nn.Parameter:
    """Return the weight of the layer called `name`, which `purpose` needs as a parameter of the layer's own.

    Args:
        model: the network that has the layer.
        name: the layer's name, as in `named_modules`.
        purpose: who needs the weight, as the error's message says it: "reinitialise", "low-rank factors".
        key: the parameter's name within the layer.

    Returns:
        The parameter itself, not a copy.

    Raises:
        ClatError: the weight is computed, as by weight_norm, spectral_norm, prune or any parametrization. What is
            written to it would be lost at the next forward pass.
    """
    module = model.get_submodule(name)
    parameter = module._parameters.get(key)
    if parameter is not None:
        return parameter
    how, remedy = _computed_by(module, key)
    raise ClatError(
        f"{purpose}: layer '{name}' has {how}, which computes its {key}; take that off first with "
        f"{remedy}(module, '{key}')"
    )


def is_computed(module: nn.Module, key: str) -> bool:
    """Return whether `module` has a tensor called `key` that is no parameter of its own.

    Args:
        module: a layer.
        key: the tensor's name within it, such as "weight".

    Returns:
        True where code of the module's computes the tensor; False for a parameter, and where there is no such
        tensor.
    """
    return key not in module._parameters and isinstance(getattr(module, key, None), Tensor)


def copied_network(model: nn.Module) -> nn.Module:
    """Return a copy of a network, also of one whose weights a hook computes: tensors with a history, which
    `copy.deepcopy` refuses.

    Args:
        model: any network; it is left as it is.

    Returns:
        The copy, in the modes that the network is in.
    """
    with modes.computed_kept(model):
        for part in model.modules():
            if part._forward_pre_hooks:
                vars(part).update({key: x.detach() for key, x in vars(part).items() if isinstance(x, Tensor)})
        return deepcopy(model)


def with_plain_weights(model: nn.Module) -> nn.Module:
    """Return the same function in evaluation mode, with parameters where weights are computed from others.

    How a weight is computed says nothing of the function: weight_norm's direction may have any length.

    Args:
        model: any network; it is left as it is.

    Returns:
        The network itself where nothing is computed, else a copy without the weight_norm, spectral_norm, prune and
        parametrizations of torch.
    """
    if not any(parametrize.is_parametrized(part) or _removable(part) for part in model.modules()):
        return model
    plain = copied_network(model).eval()
    with torch.no_grad():
        for part in list(plain.modules()):
            for number, hook in _removable(part).items():
                hook(part, None)
                hook.remove(part)
                part._forward_pre_hooks.pop(number, None)
            if parametrize.is_parametrized(part):
                _take_off(part)
    return plain


def _take_off(part: nn.Module) -> None:
    """Make parameters of all parametrised tensors, as they are.

    torch's own function would change the class of the module, which copies share with what they were made from.
    """
    keys = list(cast("nn.ModuleDict", part.parametrizations))
    values = {key: getattr(part, key).detach().clone() for key in keys}
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part._modules["parametrizations"]
    for key, value in values.items():
        part.register_parameter(key, nn.Parameter(value))


def _removable(module: nn.Module) -> dict[int, Any]:
    """Return the hooks of torch's that compute a weight of this module."""
    return {
        number: hook
        for number, hook in module._forward_pre_hooks.items()
        if any(base.__name__ in REMEDIES for base in type(hook).__mro__)
    }


def _computed_by(module: nn.Module, key: str) -> tuple[str, str]:
    """Return the name of what computes it, and of what takes that off."""
    if parametrize.is_parametrized(module, key):
        kind = type(module.parametrizations[key][0]).__name__.lstrip("_")  # type: ignore[index]
        return f"a parametrization already ({kind})", PARAMETRIZED
    for hook in module._forward_pre_hooks.values():
        for base in type(hook).__mro__:
            if base.__name__ in REMEDIES:
                return f"a hook ({type(hook).__name__})", REMEDIES[base.__name__]
    return "code of its own", "a remove function of that code, such as remove"
