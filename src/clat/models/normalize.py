"""Normalise inputs inside the model, so that attacks and callers only ever see images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted
from clat.models.names import wrapped_part
from clat.network.outputs import logits_of

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of images in [0, 1]; one value stands for all channels."""

NormalizeSpec = str | Sequence[float | Sequence[float]] | None
"""What a user may write: None, the name of a data set, or (mean, std)."""

_LARGEST = 10.0
"""Of the mean and std of images in [0, 1]; larger ones are of images of 0 to 255."""

_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

IDENTITY: Statistics = ((0.0,), (1.0,))
"""Images go in as they are."""

STATISTICS: dict[str, Statistics] = {
    "identity": IDENTITY,  # says "none, and I mean it", also where a weight file records something else
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": _IMAGENET,
    "imagenette": _IMAGENET,  # ten classes of ImageNet, whose values everybody uses for it
}
"""Well-known per-channel statistics of the training images, by data set."""


def parse_normalize(spec: NormalizeSpec) -> Statistics | None:
    """Return the (mean, std) that a user wrote.

    Args:
        spec: None, a name in STATISTICS, or a pair (mean, std); each member is a number for all channels or one
            number a channel.

    Returns:
        Mean and standard deviation, each with one value or one a channel; None for no normalisation.

    Raises:
        ClatError: The name is unknown, the pair malformed, or a std not positive.
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        if spec not in STATISTICS:
            raise unknown("normalisation", spec, STATISTICS)
        return STATISTICS[spec]
    try:
        mean, std = (_numbers(values) for values in spec)
    except (TypeError, ValueError):
        raise ClatError(f"normalize={spec!r}: give a data set's name or a pair (mean, std) of numbers") from None
    if not mean or not std or (len(mean) != len(std) and 1 not in (len(mean), len(std))):
        raise ClatError(f"normalize={spec!r}: mean has {len(mean)} values and std {len(std)}; give one a channel")
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ClatError(f"normalize={spec!r}: values must be finite and every std positive")
    if max(mean + std) > _LARGEST:
        raise ClatError(
            f"normalize={spec!r}: these are for images of 0 to 255; divide both by 255, as images are in [0, 1]"
        )
    return mean, std


def for_unit_range(mean: Sequence[float], std: Sequence[float]) -> Statistics:
    """Return statistics from a file as they are of images in [0, 1].

    Args:
        mean: One value, or one a channel, of images in [0, 1] or of 0 to 255.
        std: Likewise.

    Returns:
        Both, divided by 255 where they are of 0 to 255.
    """
    scale = 255.0 if max((*mean, *std), default=0.0) > _LARGEST else 1.0
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    """Return one number or several as a tuple of floats."""
    return (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)


class Normalize(nn.Module):
    """The normalisation (x - mean) / std per channel of images (N, C, H, W) in [0, 1].

    Mean and std are buffers, so they follow the model's device and precision, but not persistent: state dicts keep
    the names that public checkpoints have. `statistics` holds the exact numbers (or None) for weight files.

    Args:
        mean: One value, or one a channel; None, with no std, makes it exactly the identity.
        std: Likewise, above 0.

    Raises:
        ClatError: One of them is missing or malformed.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, mean: Sequence[float] | float | None = None, std: Sequence[float] | float | None = None
    ) -> None:
        super().__init__()
        if isinstance(mean, str):
            raise ClatError(
                f'normalisation "{mean}": take load_model(normalize="{mean}"), or give its mean and std'
            )
        if (mean is None) != (std is None):
            raise ClatError("Normalize: give both mean and std, or neither")
        self.statistics = None if mean is None or std is None else parse_normalize((mean, std))
        for name, values in zip(("mean", "std"), self.statistics or (None, None), strict=True):
            buffer = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        channels = max(self.mean.shape[1], self.std.shape[1])
        if channels not in (1, x.shape[1]):  # broadcasting would quietly turn one channel into three
            raise ClatError(
                f"normalisation has {counted(channels, 'channel')}, the images {x.shape[1]}; give one value a "
                "channel"
            )
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return "identity" if self.statistics is None else "mean={}, std={}".format(*self.statistics)


class Normalized(nn.Module):
    """A network that expects normalised images, made to take images in [0, 1] like all models here.

    Input (N, C, H, W); output the network's logits alone where it has more outputs.

    Args:
        net: Any network.
        mean: One value, or one a channel; None, with no std, has images go in as they are.
        std: Likewise, above 0.

    Raises:
        ClatError: One of mean and std is missing or malformed.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.net(self.normalize(x)))
        return logits


def with_normalize(model: nn.Module, statistics: Statistics | None) -> nn.Module:
    """Return the model with this normalisation.

    Args:
        model: Any network; one that has a Normalize called `normalize` gets it there, in place.
        statistics: The (mean, std), None for no change.

    Returns:
        The model, or a Normalized around it.
    """
    if statistics is None:
        return model
    if isinstance(getattr(model, "normalize", None), Normalize):
        model.normalize = Normalize(*statistics)
        return model
    return Normalized(model, *statistics)


def statistics_of(model: nn.Module) -> Statistics | None:
    """Return the normalisation that the model applies.

    Args:
        model: Any network, also within DataParallel, AveragedModel and the like.

    Returns:
        Its (mean, std), or None where it applies none that we know of.
    """
    own = getattr(model, "normalize", None)
    if isinstance(own, Normalize):
        return own.statistics
    part = wrapped_part(model)
    return None if part is None else statistics_of(model.get_submodule(part))


def same_statistics(one: Statistics, other: Statistics) -> bool:
    """Return whether two normalisations do the same to every image, but for rounding to float32.

    Args:
        one: A (mean, std).
        other: Another; one value stands for all channels.

    Returns:
        True if they are equal in every channel.
    """
    for mine, theirs in zip(one, other, strict=True):
        channels = max(len(mine), len(theirs))
        first, second = (values * channels if len(values) == 1 else values for values in (mine, theirs))
        if len(first) != len(second) or not all(map(_close, first, second)):
            return False
    return True


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
