"""Fresh random weights for chosen parts of the network at the start of a stage, as in CURE's study of blocks."""

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
from clat.network.computed import is_computed, plain_weight
from clat.network.low_rank import LowRank
from clat.runtime.callback import StageCallback, StageContext
from clat.treatments.base import Treatment


@dataclass(frozen=True, kw_only=True)
class Reinitialise(Treatment):
    """Kaiming-normal convolutions and linear layers (fan-out; zero biases), BatchNorm as new, in the named modules.

    Together with a selection of the same modules, the rest stays as it was trained.
    """

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
        chosen_layers(model, self.modules, batch_norm=self.batch_norm)

    def on_stage_start(self, context: StageContext) -> StageCallback:
        seed = derive_seed(context.seed, "reinitialise")
        reinitialise(context.model, self.modules, seed, batch_norm=self.batch_norm)
        return StageCallback()


def reinitialise(model: nn.Module, patterns: tuple[str, ...], seed: int, *, batch_norm: bool = True) -> None:
    """Draw every layer in the chosen modules anew, in place.

    Args:
        model: the network that changes.
        patterns: patterns of module names ("layer2", "layer3.*").
        seed: the same seed gives the same weights.
        batch_norm: start BatchNorm in them anew, too.

    Raises:
        ClatError: as `chosen_layers` does; nothing has changed then.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in chosen_layers(model, patterns, batch_norm=batch_norm):
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
            continue
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        assert weight is not None
        fan_out = len(weight) * weight[0, 0].numel()
        fresh = torch.randn(weight.shape, generator=generator) * (2 / fan_out) ** 0.5
        with torch.no_grad():
            weight.copy_(fresh)
            if bias is not None:
                bias.zero_()


def chosen_layers(model: nn.Module, patterns: tuple[str, ...], *, batch_norm: bool) -> list[nn.Module]:
    """Return the layers that can be drawn anew in the chosen modules.

    Args:
        model: the network.
        patterns: patterns of module names ("layer2", "layer3.*").
        batch_norm: BatchNorms are among them.

    Returns:
        Convolutions, linear layers and BatchNorms, in the model's order.

    Raises:
        ClatError: for a pattern that matches no module, and for a layer whose weight or bias is computed, so that
            it could not be drawn.
    """
    check_patterns(model, patterns)
    within = {
        module
        for name, top in model.named_modules()
        if name and any(fnmatchcase(name, pattern) for pattern in patterns)
        for module in top.modules()
    }
    kinds = (nn.modules.conv._ConvNd, nn.Linear, *((_BatchNorm,) if batch_norm else ()))
    found = {
        name: module for name, module in model.named_modules() if module in within and isinstance(module, kinds)
    }
    for name, module in found.items():
        for key in ("weight", "bias"):
            if parametrize.is_parametrized(module, key) and _has_factors(module, key):
                raise ClatError("reinitialise: a layer has low-rank factors already; name lora and its kin later")
            if is_computed(module, key):
                plain_weight(model, name, "reinitialise", key)
    return list(found.values())


def _has_factors(module: nn.Module, key: str) -> bool:
    return any(isinstance(part, LowRank) for part in module.parametrizations[key])  # type: ignore[index]


def check_patterns(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Raise an error unless every pattern matches a module.

    Args:
        model: the network.
        patterns: patterns of module names.

    Raises:
        ClatError: with the first that matches none.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("module pattern", pattern, names)
