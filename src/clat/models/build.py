"""From the settings of `[model]` to the network."""

from __future__ import annotations

from torch import nn

from clat.models.files import load_weights
from clat.models.mixture import Mixture
from clat.models.registry import load_model
from clat.models.settings import ModelConfig, NetworkConfig


def build_model(config: ModelConfig, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The network that `config` describes, with its weights, for images of so many channels.

    What has no weights is drawn from the global generator. A mixture's own `weights` are those of the whole, loaded
    after its members'. Raises ClatError like `load_model`.
    """
    if config.name != "mixture":
        return _network(config, num_classes, in_channels)
    assert config.standard is not None
    assert config.robust is not None
    mixture = Mixture(
        _network(config.standard, num_classes, in_channels),
        _network(config.robust, num_classes, in_channels),
        alpha=config.alpha,
        gate=config.gate,
        scales=config.scales or (1.0, 1.0),
        standard_size=config.standard_size,
        in_channels=in_channels,
    )
    if config.weights is not None:
        load_weights(mixture, config.weights, key=config.weights_key)
    return mixture


def _network(config: NetworkConfig, num_classes: int, in_channels: int) -> nn.Module:
    return load_model(
        config.name,
        num_classes=num_classes,
        in_channels=in_channels,
        args=config.args,
        width=config.width,
        depths=config.depths,
        activation=config.activation,
        input_size=config.input_size,
        normalize=config.normalize,
        weights=config.weights,
        weights_key=config.weights_key,
        classifier=config.classifier,
    )
