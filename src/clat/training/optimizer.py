"""SGD on what a stage moves, with momentum that survives a re-selection only where the layer stays selected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat.recipe.schema import OptimizerConfig


def build_optimizer(
    parameters: dict[str, nn.Parameter], config: OptimizerConfig, momentum: dict[str, Tensor]
) -> torch.optim.SGD:
    """An SGD over `parameters` (name -> parameter). A parameter found in `momentum` goes on with that buffer;
    a newly selected one starts fresh. The learning rate is set at every step."""
    optimizer = torch.optim.SGD(
        parameters.values(),
        lr=0.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    for name, parameter in parameters.items():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return optimizer


def momentum_of(optimizer: torch.optim.SGD, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The momentum buffers by parameter name, for parameters that have taken a step."""
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in parameters.items()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}
