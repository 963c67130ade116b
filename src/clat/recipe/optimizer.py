"""Which optimizer moves the weights: SGD, or any other of `torch.optim` by its name, with its arguments beside it.

    optimizer = { momentum = 0.9, weight_decay = 5e-4 }                # SGD, which needs no name
    optimizer = { name = "adamw", weight_decay = 0.05, betas = [0.9, 0.95] }

The learning rate is never among them: it is the schedule's.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Discriminator, PlainSerializer, Tag
from torch import nn

from clat.core.checks import within
from clat.core.errors import ClatError, unknown

LEFT_OUT = ("optimizer", "sgd", "lbfgs", "sparseadam")
"""Classes of `torch.optim` that are no choice here: the base, the one with settings of its own, one that asks for
the loss several times a step, one for sparse gradients."""
NO_ARGUMENTS = ("self", "params", "lr", "maximize", "differentiable", "capturable", "fused")
"""Arguments that the training loop decides, or has no use for."""
OWN, OTHER = "[sgd]", "[torch]"
"""Tags of the two kinds of settings; not words of a recipe."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings that every optimizer has."""

    decay_norms_and_biases: bool = True
    """Let weight decay also pull at tensors of fewer than two dimensions: biases, scale and shift of
    normalisations."""
    layer_decay: float = 1.0
    """The learning rate of each block is this times that of the block above it; 1: one rate for all. See
    `clat.network.depth`."""
    clip_norm: float | None = None
    """Scale the gradient down to this norm, over all that moves, where it is longer; None: leave it."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ClatError(f"optimizer.layer_decay is {self.layer_decay}: expected a factor above 0, at most 1")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise ClatError(f"optimizer.clip_norm is {self.clip_norm}: expected a length above 0")

    def succeeded_by(self, other: OptimizerSettings) -> bool:
        """Return whether the next stage's optimizer can go on with what this one remembers.

        Args:
            other: the settings of the next stage.

        Returns:
            True if both keep the same kind of state; otherwise the next one starts afresh.
        """
        return type(self) is type(other)

    def build(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """Return the optimizer over parameters or groups of them, at a learning rate of 0.

        Args:
            parameters: as `torch.optim` takes them; a group may have a weight decay of its own.

        Returns:
            A fresh optimizer; the training loop sets its rate before each step.

        Raises:
            ClatError: it does not take parameters of these shapes.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(OptimizerSettings):
    """SGD."""

    needs_no_name = True
    """A table without a name is this one."""

    name: Literal["sgd"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        within("optimizer.momentum", self.momentum, 0, 1)
        within("optimizer.weight_decay", self.weight_decay, 0, float("inf"))
        if self.nesterov and self.momentum == 0:
            raise ClatError("optimizer.nesterov needs a momentum above 0")

    def build(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True, kw_only=True)
class TorchOptimizer(OptimizerSettings):
    """Any other optimizer of `torch.optim`, by its class's name in capital letters or small ones."""

    name: str
    """"adamw", "adam", "rmsprop", ..."""
    arguments: dict[str, Any] = field(default_factory=dict, metadata={"flat": True})
    """Arguments of the class, which a recipe writes beside the name; what is left out is torch's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name.lower())
        object.__setattr__(self, "arguments", {key: _frozen(value) for key, value in self.arguments.items()})
        if self.name not in optimizer_classes():
            raise unknown("optimizer", self.name, ["sgd", *optimizer_classes()])
        self._check_arguments()
        if not self.decay_norms_and_biases and "weight_decay" not in self._defaults():
            raise ClatError(f"optimizer.decay_norms_and_biases: '{self.name}' has no weight_decay to leave out")
        self.build([nn.Parameter(torch.zeros(2, 2))])  # are the values within torch's limits?

    def succeeded_by(self, other: OptimizerSettings) -> bool:
        if not isinstance(other, TorchOptimizer):
            return False
        return (self.name, self.arguments) == (other.name, other.arguments)  # which decide what it keeps

    def build(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an implementation that is new in torch
                return optimizer_classes()[self.name](parameters, lr=0.0, **self.arguments)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ClatError(f"optimizer '{self.name}': {str(error).splitlines()[0]}") from None

    def _defaults(self) -> dict[str, Any]:
        signature = inspect.signature(optimizer_classes()[self.name])
        return {name: one.default for name, one in signature.parameters.items() if name not in NO_ARGUMENTS}

    def _check_arguments(self) -> None:
        defaults = self._defaults()
        for key, value in self.arguments.items():
            if key == "lr":
                raise ClatError("optimizer.lr: the learning rate is the schedule's, give schedule.lr")
            if key not in defaults:
                whole = f" (--optimizer '{{ name = \"{self.name}\" }}' replaces the whole table)"
                raise ClatError(f"{unknown(f'argument of the optimizer {self.name}', key, defaults)}{whole}")
            if not _alike(value, defaults[key]):
                raise ClatError(f"optimizer.{key} is {value!r}: expected something like {defaults[key]!r}")


def _alike(value: Any, default: Any) -> bool:
    """Return whether `value` is of the kind of an argument whose default is `default`."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, tuple):
        pairs = zip(value, default, strict=False) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and len(value) == len(default) and all(_alike(*pair) for pair in pairs)
    return True  # None: its kind is not known from it


def _frozen(value: Any) -> Any:
    """Return TOML's lists as tuples, which is what torch has."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@cache
def optimizer_classes() -> dict[str, Any]:
    """Return the optimizers of `torch.optim` that a recipe can name.

    Returns:
        Name in small letters -> class; without those of `LEFT_OUT`.
    """
    found = {name.lower(): one for name, one in vars(torch.optim).items() if inspect.isclass(one)}
    return {
        name: one for name, one in found.items() if issubclass(one, torch.optim.Optimizer) and name not in LEFT_OUT
    }


def _gathered(data: Any) -> Any:
    """Return a recipe's table with everything that is not ours put among the arguments."""
    if not isinstance(data, dict) or "arguments" in data:
        return data
    ours = {one.name for one in fields(TorchOptimizer)}
    table = {key: value for key, value in data.items() if key in ours}
    return table | {"arguments": {key: value for key, value in data.items() if key not in ours}}


def _table(config: TorchOptimizer) -> dict[str, Any]:
    """Return the table that `_gathered` reads."""
    shown = {one.name: getattr(config, one.name) for one in fields(config) if one.name != "arguments"}
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in config.arguments.items()}
    return {key: value for key, value in (shown | given).items() if value is not None}


def _kind(value: Any) -> str:
    name = value.get("name", "sgd") if isinstance(value, dict) else getattr(value, "name", "sgd")
    return OWN if str(name).lower() == "sgd" else OTHER


def _small(data: Any) -> Any:
    """Return the table with "SGD" as "sgd"."""
    return data | {"name": "sgd"} if isinstance(data, dict) and "name" in data and _kind(data) == OWN else data


AnyOptimizer = Annotated[
    Annotated[OptimizerConfig, Tag(OWN)]
    | Annotated[TorchOptimizer, BeforeValidator(_gathered), PlainSerializer(_table), Tag(OTHER)],
    Discriminator(_kind),
    BeforeValidator(_small),
]
"""What a recipe's `optimizer` may be, told apart by its `name`."""
