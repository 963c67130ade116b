"""Fresh random weights for chosen parts of the network at the start of a stage, as in CURE's study of blocks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clat.core.errors import ClatError, unknown
from clat.core.seeds import derive_seed
from clat.data.draws import seeded_draws
from clat.network.computed import is_computed, plain_weight
from clat.network.low_rank import LowRank
from clat.network.modes import NORMALISATIONS
from clat.network.swap import names_of
from clat.runtime.callback import StageCallback, StageContext
from clat.treatments.base import Treatment

_DRAWN = (nn.modules.conv._ConvNd, nn.Linear)
_KNOWN = (*_DRAWN, *NORMALISATIONS, nn.MultiheadAttention)


@dataclass(frozen=True, kw_only=True)
class Reinitialise(Treatment):
    """Kaiming-normal convolutions and linear layers (fan-out; zero biases), BatchNorm as new, in the named modules.

    The projections of attention are drawn as linear layers; what else has parameters starts as its own
    `reset_parameters` has it. Together with a selection of the same modules, the rest stays as it was trained.
    """

    name: Literal["reinitialise"] = "reinitialise"
    before: ClassVar[tuple[str, ...]] = ("lora", "ema", "swa")
    modules: tuple[str, ...] = ()
    """Patterns of module names ("layer2", "layer3.*"); everything below a matching module is drawn anew."""
    batch_norm: bool = True
    """Whether BatchNorm in them, and any other normalisation, starts anew too. CURE's code keeps its scale, shift
    and statistics by default."""

    def __post_init__(self) -> None:
        if not self.modules:
            raise ClatError("reinitialise needs modules: patterns of names such as 'layer3'")

    def requires(self, model: nn.Module, x: Tensor) -> None:
        for name, layer in chosen_layers(model, self.modules, batch_norm=self.batch_norm).items():
            if any(not parameter.requires_grad for parameter in layer.parameters(recurse=False)):
                raise ClatError(
                    f"reinitialise: '{name}' came in frozen (requires_grad=False), so that it would be drawn at "
                    "random and stay so: leave it out, or thaw it"
                )

    def on_stage_start(self, context: StageContext) -> StageCallback:
        seed, found = derive_seed(context.seed, "reinitialise"), StageCallback()
        drawn = reinitialise(context.model, self.modules, seed, batch_norm=self.batch_norm)
        found.redrawn = frozenset(
            f"{name}.{part}"
            for layer in drawn.values()
            for name in names_of(context.model, layer)
            for part, _ in layer.named_parameters()
        )
        return found


def reinitialise(
    model: nn.Module, patterns: tuple[str, ...], seed: int, *, batch_norm: bool = True
) -> dict[str, nn.Module]:
    """Draw every layer in the chosen modules anew, in place.

    Args:
        model: the network that changes.
        patterns: patterns of module names ("layer2", "layer3.*").
        seed: the same seed gives the same weights.
        batch_norm: start BatchNorm and other normalisation in them anew, too.

    Returns:
        The layers that were, by name.

    Raises:
        ClatError: as `chosen_layers` does; nothing has changed then.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = chosen_layers(model, patterns, batch_norm=batch_norm)
    for name, module in chosen.items():
        if isinstance(module, NORMALISATIONS):
            module.reset_parameters()
        elif isinstance(module, _DRAWN):
            weight, bias = module._parameters["weight"], module._parameters["bias"]
            assert weight is not None
            _draw(weight, len(weight) * weight[0, 0].numel(), generator)
            _zero(bias)
        elif isinstance(module, nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 2:  # a projection, or three that are stacked, each of that many outputs
                    _draw(parameter, module.embed_dim, generator)
                else:
                    _zero(parameter)
        else:
            _reset(module, derive_seed(seed, name))
    return chosen


def _draw(weight: nn.Parameter, fan_out: int, generator: torch.Generator) -> None:
    fresh = torch.randn(weight.shape, generator=generator) * (2 / fan_out) ** 0.5
    with torch.no_grad():
        weight.copy_(fresh)


def _zero(bias: nn.Parameter | None) -> None:
    if bias is not None:
        with torch.no_grad():
            bias.zero_()


def _reset(module: nn.Module, seed: int) -> None:
    """Give a module the parameters that its own `reset_parameters` draws; on the CPU, whatever device it is on."""
    twin = copy.deepcopy(module).cpu()
    with seeded_draws() as seeded:
        seeded(seed)
        twin.reset_parameters()  # type: ignore[operator]
    with torch.no_grad():
        for parameter, fresh in zip(module.parameters(recurse=False), twin.parameters(recurse=False), strict=True):
            parameter.copy_(fresh)


def chosen_layers(model: nn.Module, patterns: tuple[str, ...], *, batch_norm: bool) -> dict[str, nn.Module]:
    """Return the layers that are drawn anew in the chosen modules: all that hold parameters.

    Args:
        model: the network.
        patterns: patterns of module names ("layer2", "layer3.*").
        batch_norm: BatchNorm and other normalisation is among them.

    Returns:
        By name, in the model's order: convolutions, linear layers, attention, normalisation, and what has a
        `reset_parameters` of its own.

    Raises:
        ClatError: for a pattern that matches no module or none with something to draw, for a layer whose weight or
            bias is computed, so that it could not be drawn, and for a parameter that nobody knows how to draw.
    """
    check_patterns(model, patterns)
    names = {module: name for name, module in model.named_modules()}
    norms = {module for module in names if isinstance(module, NORMALISATIONS)}
    inside = {part for norm in norms for part in norm.modules() if part is not norm}  # a norm sees to that itself
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        tops = [top for top, name in names.items() if name and fnmatchcase(name, pattern)]
        within = {part for top in tops for part in top.modules()} - inside
        holding = {names[part]: part for part in within if isinstance(part, _KNOWN) or _own(part)}
        if not holding:
            raise ClatError(f"reinitialise: '{pattern}' matches nothing that could be drawn anew")
        found |= {name: part for name, part in holding.items() if batch_norm or part not in norms}
    if not found:
        raise ClatError("reinitialise: the modules hold normalisation alone, which batch_norm = false keeps")
    layers = {name: found[name] for name in names.values() if name in found}
    for name, module in layers.items():
        for key in ("weight", "bias"):
            if parametrize.is_parametrized(module, key) and _has_factors(module, key):
                raise ClatError("reinitialise: a layer has low-rank factors already; name lora and its kin later")
            if isinstance(module, _KNOWN) and is_computed(module, key):
                plain_weight(model, name, "reinitialise", key)
    for name, module in layers.items():
        if not isinstance(module, _KNOWN) and not callable(getattr(module, "reset_parameters", None)):
            raise ClatError(
                f"reinitialise: nothing draws '{name}.{_own(module)[0]}' anew: give '{name}' a "
                "reset_parameters(), or name modules that leave it out"
            )
    return layers


def _own(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False)]


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
