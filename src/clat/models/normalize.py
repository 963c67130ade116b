"""Input normalisation, held inside the model so that attacks and callers only ever see images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.network.outputs import logits_of

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of images in [0, 1]; one value stands for all channels."""

NormalizeSpec = str | Sequence[float | Sequence[float]] | None
"""What a user may write: None, the name of a data set, or (mean, std)."""

_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STATISTICS: dict[str, Statistics] = {
    "identity": (
        (0.0,),
        (1.0,),
    ),  # says "none, and I mean it", also where a weight file records something else
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": _IMAGENET,
    "imagenette": _IMAGENET,  # ten classes of ImageNet, whose values everybody uses for it
}
"""Well-known per-channel statistics of the training images, by data set."""


def parse_normalize(spec: NormalizeSpec) -> Statistics | None:
    """Turn what a user wrote into (mean, std), or None for no normalisation.

    `spec` is None, a name in STATISTICS, or a pair (mean, std); each member is a number for all channels or
    one number a channel. Raises ClatError for an unknown name, a malformed pair, or a std that is not
    positive.
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
    return mean, std


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    """One number or several, as a tuple of floats."""
    return (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)


class Normalize(nn.Module):
    """(x - mean) / std per channel on images (N, C, H, W) in [0, 1]; without arguments, exactly the identity.

    Mean and std are buffers, so they follow the model's device and precision, but not persistent: state
    dicts keep the names that public checkpoints have. `statistics` holds the exact numbers (or None) for
    weight files.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, mean: Sequence[float] | float | None = None, std: Sequence[float] | float | None = None
    ) -> None:
        super().__init__()
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
                f"normalisation has {channels} channels, the images {x.shape[1]}; give one value a channel"
            )
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return "identity" if self.statistics is None else "mean={}, std={}".format(*self.statistics)


class Normalized(nn.Module):
    """Any network that expects normalised images, made to take [0, 1] (N, C, H, W) like all models here, and to
    return its logits alone where it has more outputs. Without mean and std, images go in as they are."""

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
    """The model with this normalisation: set where it has a Normalize, else wrapped. None: as it is."""
    if statistics is None:
        return model
    if isinstance(getattr(model, "normalize", None), Normalize):
        model.normalize = Normalize(*statistics)
        return model
    return Normalized(model, *statistics)


def statistics_of(model: nn.Module) -> Statistics | None:
    """The (mean, std) that the model applies, or None where it applies none that we know of."""
    own = getattr(model, "normalize", None)
    return own.statistics if isinstance(own, Normalize) else None
