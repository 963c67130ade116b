"""Build the network that the settings of `[model]` describe."""

from __future__ import annotations

from torch import nn

from clat.models.files import load_weights
from clat.models.mixture import Mixture
from clat.models.registry import load_model
from clat.models.settings import ModelConfig, NetworkConfig


def build_model(config: ModelConfig, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return the network that `config` describes, with its weights.

    Parameters without trained weights are drawn from the global generator.

    Args:
        config: The network, or the two of a mixture, whose own `weights` are those of the whole, loaded after its
            members'.
        num_classes: How many classes the data have.
        in_channels: Channels of the images.

    Returns:
        A network in training mode, images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    Raises:
        ClatError: A name, an option or a weight file is refused, as by `load_model`.
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
        load_weights(mixture, config.weights, key=config.weights_key, adopt=True)
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
