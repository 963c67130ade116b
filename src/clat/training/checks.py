"""What can be known to be wrong before a run starts, rather than hours into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat import modes
from clat.config import StageConfig
from clat.errors import ClatError
from clat.layers import enumerate_layers, find_layers


def check_model(model: nn.Module, x: Tensor, num_classes: int) -> None:
    """Raise ClatError unless `model` turns `x` (1, C, H, W) into at least `num_classes` logits."""
    try:
        with modes.for_attack(model), torch.no_grad():
            logits = model(x)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ClatError(f"the model does not run on images of shape {tuple(x.shape[1:])}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ClatError("the model does not return logits of shape (N, classes): wrap it so that it does")
    if logits.shape[1] < num_classes:
        raise ClatError(f"the model has {logits.shape[1]} classes, the data {num_classes}: give it as many")


def check_selection(stage: StageConfig, model: nn.Module, x: Tensor) -> None:
    """Raise ClatError if the stage's selection asks for layers that the model does not have."""
    rule = stage.selection
    if rule is None:
        return
    layers = enumerate_layers(model, x, include=rule.include, exclude=rule.exclude)
    if rule.rule == "named":
        find_layers(layers, [str(name) for name in rule.layers])
    # Layer 1 has no ratio to be least critical by.
    most = len(layers) - (rule.rule == "least-critical")
    if rule.rule != "all" and rule.rule != "named" and rule.k > most:
        raise ClatError(
            f"stage '{stage.name}': selection.k is {rule.k}, but there are {most} layers to select from"
        )
