"""Chosen parts of the network start a stage from fresh random weights, as in CURE's study of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from clat.core.errors import ClatError, unknown
from clat.core.seeds import derive_seed
from clat.runtime.callback import StageCallback, StageContext
from clat.treatments.base import Treatment


@dataclass(frozen=True, kw_only=True)
class Reinitialise(Treatment):
    """Kaiming-normal convolutions and linear layers (fan-out; zero biases), BatchNorm as new, in the named modules.
    Together with a selection of the same modules, the rest stays as it was trained."""

    name: Literal["reinitialise"] = "reinitialise"
    before: ClassVar[tuple[str, ...]] = ("lora", "ema", "swa")
    modules: tuple[str, ...] = ()
    """Patterns of module names ("layer2", "layer3.*"); everything below a matching module is drawn anew."""
    batch_norm: bool = True
    """Whether BatchNorm in them starts anew too. CURE's code keeps its scale, shift and statistics by default."""

    def __post_init__(self) -> None:
        if not self.modules:
            raise ClatError("reinitialise needs modules: patterns of names such as 'layer3'")

    def requires(self, model: nn.Module, x: Tensor) -> None:
        check_patterns(model, self.modules)

    def on_stage_start(self, context: StageContext) -> StageCallback:
        seed = derive_seed(context.seed, "reinitialise")
        reinitialise(context.model, self.modules, seed, batch_norm=self.batch_norm)
        return StageCallback()


def reinitialise(model: nn.Module, patterns: tuple[str, ...], seed: int, *, batch_norm: bool = True) -> None:
    """Draw every layer in the modules that match one of `patterns` anew, in place; the same seed, the same weights.
    `batch_norm`: BatchNorm too. Raises ClatError for a pattern that matches no module."""
    check_patterns(model, patterns)
    chosen = {
        module
        for name, top in model.named_modules()
        if name and any(fnmatchcase(name, pattern) for pattern in patterns)
        for module in top.modules()
    }
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():  # in the model's order, so that the draw does not hang on a set's
        if module not in chosen:
            continue
        if parametrize.is_parametrized(module):
            raise ClatError("reinitialise: a layer's weight is computed from others; name lora and its kin later")
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            fan_out = len(module.weight) * module.weight[0, 0].numel()
            fresh = torch.randn(module.weight.shape, generator=generator) * (2 / fan_out) ** 0.5
            with torch.no_grad():
                module.weight.copy_(fresh)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm) and batch_norm:
            module.reset_parameters()


def check_patterns(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Raise ClatError for a pattern that matches no module."""
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("module pattern", pattern, names)
