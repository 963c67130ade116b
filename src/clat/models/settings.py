"""Say which network: the settings of `[model]` in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from clat.core.errors import ClatError

Argument = bool | int | float | str | list[bool | int | float | str]
"""What an argument of a factory may be, in a recipe and on the command line."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The settings of one network."""

    name: str = "resnet18"
    """A built-in network, "robustbench:ID", one of another library ("timm:NAME", "hf:FOLDER" or "hf:OWNER/NAME",
    "torchvision:NAME"), or "package.module:factory" for one of your own."""
    args: dict[str, Argument] | None = None
    """Further arguments of a library's network or of your factory: { pretrained = true, img_size = 64 }."""
    width: int | None = None
    """Base channels of a built-in network; None: as published."""
    depths: tuple[int, ...] | None = None
    """Blocks in each stage of a built-in network; None: as published."""
    activation: str | None = None
    """Of the dm- and ra- networks: relu, silu or swish; None: as published."""
    input_size: int | None = None
    """Of the imagenet- networks: bring images to so many pixels a side, inside; None: take them as they are."""
    normalize: str | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Normalisation inside the model: a data set's name, or (mean, std); None: identity, or a library's own."""
    weights: str | None = None
    """A weight file to start from."""
    weights_key: str | None = None
    """Which of several state dicts in that file: its key ("state_dict_ema") or the prefix of its names; None: the
    usual one, raw weights before averaged ones."""
    classifier: Literal["new"] | None = None
    """`new`: the last linear layer of the file, or of a library's trained network, is left out and drawn anew, for
    other classes; None: all of it."""

    def __post_init__(self) -> None:
        if self.weights_key is not None and self.weights is None:
            raise ClatError(f"weights_key '{self.weights_key}' belongs to a weight file: name one in weights")

    @property
    def is_trained(self) -> bool:
        """Return whether the network's weights come from a file or a library, and not from the seed."""
        args = self.args or {}
        stored = self.name.startswith(("hf:", "timm:local-dir:", "timm:hf-hub:"))
        trained = self.name.startswith(("timm:", "torchvision:")) and (
            args.get("pretrained") or args.get("weights")
        )
        return bool(self.weights is not None or stored or trained)


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The mixing network of adaptive smoothing, which reads features of both members and sets alpha per image.

    Defaults are those of the published CIFAR-10 training; `hidden` belongs to features of 256 and 512 channels.
    """

    standard: tuple[str, ...]
    """One or two modules of the standard member, by name, whose outputs (N, C, H, W) are read: the early first."""
    robust: tuple[str, ...]
    """As many modules of the robust member."""
    hidden: tuple[int, ...] = (512, 768, 1024)
    """Channels of the stages of two pre-activation blocks, each of which halves the map."""
    alpha_range: tuple[float, float] = (0.84, 0.99)
    """The interval that alpha is shrunk to in evaluation; in training it is (0, 1)."""
    scale: float = 2.0
    """The gate's logit is scale * normalised output + bias."""
    bias: float = 1.3
    """In evaluation."""
    train_bias: float = 0.4
    """While the gate is trained."""

    def __post_init__(self) -> None:
        if len(self.standard) not in (1, 2) or len(self.standard) != len(self.robust):
            raise ClatError("model.gate reads one or two features of each member: name as many of both")
        if not self.hidden or min(self.hidden) < 1:
            raise ClatError(
                f"model.gate.hidden is {self.hidden}: give the channels of each stage, such as (64, 128)"
            )
        low, high = self.alpha_range
        if not 0 <= low < high <= 1:
            raise ClatError(f"model.gate.alpha_range is ({low}, {high}): expected 0 <= low < high <= 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkConfig):
    """The settings of the network, or with name = "mixture" of two (see `clat.models.mixture`)."""

    standard: NetworkConfig | None = None
    """Of a mixture: the accurate member."""
    robust: NetworkConfig | None = None
    """Of a mixture: the robust member; its layers are called "robust.*"."""
    alpha: float | None = None
    """Of a mixture: the fixed weight of the robust member's probabilities; or a `gate`."""
    gate: GateConfig | None = None
    """Of a mixture: a mixing network that sets alpha per image; or a fixed `alpha`."""
    scales: tuple[float, float] | None = None
    """Of a mixture: factors of the members' logits, standard and robust; None: 1 and 1."""
    standard_size: int | None = None
    """Of a mixture: resize images to this many pixels for the standard member; None: leave them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {field.name for field in fields(ModelConfig)} - {field.name for field in fields(NetworkConfig)}
        if self.name != "mixture":
            given = sorted(name for name in own if getattr(self, name) is not None)
            if given:
                raise ClatError(
                    f'model.{given[0]} belongs to a mixture: set model.name = "mixture", or leave it out'
                )
            return
        if self.standard is None or self.robust is None:
            raise ClatError("a mixture has two members: give model.standard and model.robust, each with a name")
        if (self.alpha is None) == (self.gate is None):
            raise ClatError(
                "a mixture takes a fixed model.alpha or a model.gate that sets it per image, one of them"
            )
        for name in ("args", "width", "depths", "activation", "input_size", "normalize", "classifier"):
            if getattr(self, name) is not None:
                raise ClatError(f"model.{name} is a member's: write model.robust.{name} or model.standard.{name}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ClatError(f"model.alpha is {self.alpha}: expected a value from 0 to 1")
        if self.scales is not None and not min(self.scales) > 0:
            raise ClatError(f"model.scales is {self.scales}: expected two factors above 0")
        if self.standard_size is not None and self.standard_size < 1:
            raise ClatError(f"model.standard_size is {self.standard_size}: expected at least 1")

    @property
    def starts_from_weights(self) -> bool:
        """Return whether any part of the network comes from a weight file."""
        return any(one is not None and one.is_trained for one in (self, self.standard, self.robust))
