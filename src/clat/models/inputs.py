"""Ask a network which images it takes, to say so where the given ones are others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from clat.core.formatting import counted
from clat.models.fitting import bare


@dataclass(frozen=True)
class ExpectedInput:
    """The images that a network takes.

    Attributes:
        channels: Of an image; None where the network does not say.
        size: Height and width in pixels; None where the network does not say.
    """

    channels: int | None
    size: tuple[int, int] | None


def expected_input(model: nn.Module) -> ExpectedInput:
    """Return the channels and size that a network says it takes.

    Hugging Face's networks have them in their `config`, timm's and torchvision's transformers at the patches, and
    the channels of any other are those of its first convolution. A size that a network would take others beside is
    only good for an error message.

    Args:
        model: Any network, perhaps inside a Normalized.

    Returns:
        The channels and the size, each None where the network does not say.
    """
    net = bare(model)
    config = getattr(net, "config", None)
    patches = getattr(net, "patch_embed", None)
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    channels = getattr(config, "num_channels", None) or (first.in_channels if first is not None else None)
    sizes = (
        getattr(config, "image_size", None),
        getattr(patches, "img_size", None),
        getattr(net, "image_size", None),
    )
    return ExpectedInput(
        channels if isinstance(channels, int) else None, next(filter(None, map(_pair, sizes)), None)
    )


def advice(model: nn.Module, shape: Sequence[int]) -> str:
    """Return what to do so that images become such as the network says it takes.

    Args:
        model: Any network, perhaps inside a Normalized.
        shape: The images' (C, H, W).

    Returns:
        The end of an error message, which starts with "; "; nothing where the shape is right or the network says
        nothing.
    """
    expected = expected_input(model)
    channels, *size = shape
    if expected.channels is not None and expected.channels != channels:
        cure = ": give --channels 1 (in a recipe data.channels = 1)" if expected.channels == 1 else ""
        return f"; it takes {counted(expected.channels, 'channel')}{cure}"
    if expected.size is not None and expected.size != tuple(size):
        height, width = expected.size
        square = f": give --image-size {height} (in a recipe data.image_size = {height})" if height == width else ""
        return f"; it takes {height} x {width} pixels{square}"
    return ""


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None
