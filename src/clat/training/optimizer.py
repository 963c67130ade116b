"""The optimizer over what a stage moves, with a state that survives a re-selection only where a parameter stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clat.network.depth import depths
from clat.network.slices import slice_like
from clat.recipe.optimizer import OptimizerSettings

OptimizerState = dict[str, dict[str, Tensor]]
"""Parameter name -> what the optimizer remembers of it, by key: SGD's `momentum_buffer`, Adam's `exp_avg`, ..."""


def build_optimizer(
    parameters: dict[str, nn.Parameter],
    config: OptimizerSettings,
    state: OptimizerState,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer over `parameters`, which goes on where it has a state.

    Args:
        parameters: name -> what moves.
        config: which optimizer.
        state: the state of parameters that have moved before; a newly selected one starts fresh.
        rates: by what the learning rate of a parameter is multiplied; 1 where it is not named.

    Returns:
        The optimizer at a learning rate of 0; `set_rate` sets it before each step.

    Raises:
        ClatError: the optimizer does not take such parameters.
    """
    optimizer = config.build(_groups(parameters, config, rates or {}))
    for name, parameter in parameters.items():
        for key, value in state.get(name, {}).items():
            optimizer.state[parameter][key] = _placed(key, value, parameter)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Have the next step taken at a learning rate, times each group's own factor.

    Args:
        optimizer: as `build_optimizer` gives it.
        rate: the schedule's learning rate, 0 or more.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float | None) -> None:
    """Have the next step taken with a momentum, which is the first beta of an optimizer that has betas.

    Args:
        optimizer: as `build_optimizer` gives it; one that has neither is left as it is.
        momentum: in [0, 1); None: as it is.
    """
    for group in optimizer.param_groups if momentum is not None else ():
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = momentum


def state_of(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> OptimizerState:
    """Return what the optimizer remembers, for parameters that have taken a step.

    Args:
        optimizer: as `build_optimizer` gives it.
        parameters: name -> parameter, which it moves.

    Returns:
        Name -> key -> tensor, not copied.
    """
    found = {
        name: {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }
    return {name: values for name, values in found.items() if values}


def rates_by_depth(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return the factor decay^(blocks above) of each parameter's learning rate.

    Args:
        model: its blocks are counted, see `clat.network.depth`.
        decay: the factor from block to block, in (0, 1].

    Returns:
        Parameter -> factor; nothing where `decay` is 1.
    """
    if decay == 1:
        return {}
    found = depths(model)
    deepest = max(found.values(), default=1)
    return {parameter: decay ** (deepest - depth) for parameter, depth in found.items()}


def _groups(
    parameters: dict[str, nn.Parameter], config: OptimizerSettings, rates: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Return the parameters in their order, apart by learning rate and by whether they decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in parameters.values():
        decays = config.decay_norms_and_biases or parameter.dim() > 1
        groups.setdefault((rates.get(parameter, 1.0), decays), []).append(parameter)
    return [
        {"params": members, "rate": rate, **({} if decays else {"weight_decay": 0.0})}
        for (rate, decays), members in groups.items()
    ]


def _placed(key: str, value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a copy of a saved tensor where the optimizer expects it.

    It lies beside its parameter and in its memory layout, but for the count of steps, which torch keeps on the CPU.
    """
    if key == "step":
        return value.clone()
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(slice_like(value, parameter))
    return value.to(parameter.device, copy=True)
