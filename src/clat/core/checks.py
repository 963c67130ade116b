"""Refuse batches that would silently give wrong numbers, where users hand in tensors of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from clat.core.errors import ClatError
from clat.core.formatting import counted

LARGEST = 2**63 - 1
"""The largest whole number that torch takes for a size or a count, and that TOML has to hold."""
_ROUNDING = 1e-4  # beyond [0, 1]: more is no rounding error
_NEAR_ONE = 0.02  # how far from it probabilities may sum up, in bfloat16


def check_images(x: torch.Tensor, channels: int | None = None) -> None:
    """Raise an error unless `x` is a batch of images that attacks and measurements can take.

    On an accelerator this waits for the device once.

    Args:
        x: the batch, to be floating point, (N, C, H, W), finite, in [0, 1]; an empty batch is accepted.
        channels: how many the first convolution of their network takes (`clat.network.guard.input_channels`), which
            tells images whose channels come last from narrow ones; None: nobody knows.

    Raises:
        ClatError: it is anything else; the message says how to mend it.
    """
    if not isinstance(x, torch.Tensor):
        raise ClatError(f"images are a {kind_of(x)}, expected a torch.Tensor: convert with torch.as_tensor(x)")
    shape = tuple(x.shape)
    if x.ndim == 3:
        raise ClatError(f"images have shape {shape}, expected NCHW: add the batch dimension with x[None]")
    if x.ndim != 4:
        raise ClatError(f"images have shape {shape}, expected four dimensions, NCHW")
    if like_pictures(shape) and channels != shape[1]:
        raise channels_first_wanted(shape)
    if x.dtype == torch.uint8:
        raise ClatError("images are uint8, expected floating point in [0, 1]: divide by 255")
    if not x.is_floating_point():
        raise ClatError(f"images are {x.dtype}, expected floating point in [0, 1]: convert with x.float()")
    _check_gradients("images", "x", x)
    if x.numel() == 0:
        return
    low, high = torch.stack(x.detach().aminmax()).tolist()  # both are nan where any value is
    if low >= 0 and high <= 1:
        return
    if not abs(low) + abs(high) < float("inf"):
        raise ClatError("images hold nan or infinite values: look for the step that made them")
    if low >= 0 and high <= 255 and high > 16:
        raise ClatError(f"images lie in [{low:.3g}, {high:.3g}], expected [0, 1]: divide by 255")
    if low > -_ROUNDING and high < 1 + _ROUNDING:
        raise ClatError(
            f"images lie in [{_digits(low)}, {_digits(high)}], expected [0, 1]: cut rounding errors off with"
            " x.clamp(0, 1)"
        )
    raise ClatError(
        f"images lie in [{_digits(low)}, {_digits(high)}], expected [0, 1]: pass them unnormalised; clat puts"
        " normalisation inside the model, see load_model(normalize=...)"
    )


def channels_last(shape: Sequence[int]) -> bool:
    """Return whether a shape may be one whose channels come last.

    Args:
        shape: of one image or several, to be (..., C, H, W).

    Returns:
        True where the width is 1 or 3, as many as grey or colour images have channels, and the channels are not.
        Signals of several leads, (N, 12, T, 1), are so too.
    """
    return shape[-1] in (1, 3) and shape[-3] not in (1, 3)


def like_pictures(shape: Sequence[int]) -> bool:
    """Return whether a shape is that of pictures whose channels come last, as far as it tells.

    Args:
        shape: of one image or several, to be (..., C, H, W).

    Returns:
        True where channels may come last, and the two sides before them are those of a picture: at most 1 to 2, of
        colour also others from 8 pixels on. Signals of several leads and patches of many bands are narrower.
    """
    short, long = sorted(shape[-3:-1])
    return channels_last(shape) and (long <= 2 * short or (shape[-1] == 3 and short >= 8))


def like_layers(shape: Sequence[int]) -> bool:
    """Return whether a shape is that of pictures with two or four channels that come last, as far as it tells.

    Args:
        shape: of one image or several, to be (..., C, H, W).

    Returns:
        True where the last side is 2 or 4, as of pictures with an alpha channel, and the two before are those of a
        picture of 8 pixels or more.
    """
    short, long = sorted(shape[-3:-1])
    return shape[-1] in (2, 4) and short >= 8 and long <= 2 * short


def channels_first_wanted(shape: Sequence[int]) -> ClatError:
    """Return the error for images whose channels come last.

    Args:
        shape: theirs, (N, H, W, C).

    Returns:
        The error, for the caller to raise.
    """
    return ClatError(f"images have shape {tuple(shape)}, expected NCHW: x.permute(0, 3, 1, 2)")


def check_labels(y: torch.Tensor, num_classes: int | None, n: int) -> None:
    """Raise an error unless `y` holds one class number for each of `n` images.

    Args:
        y: the labels, to be int64, (n,), in [0, num_classes).
        num_classes: how many classes the model has; None leaves the upper end open.
        n: how many images there are.

    Raises:
        ClatError: they are anything else; the message says how to mend it.
    """
    if not isinstance(y, torch.Tensor):
        raise ClatError(f"labels are a {kind_of(y)}, expected a torch.Tensor: convert with torch.as_tensor(y)")
    shape = tuple(y.shape)
    if y.ndim == 2 and len(y) == n and shape[1] == (num_classes or shape[1]) > 1:
        raise ClatError(f"labels have shape {shape}, expected ({n},): give class numbers, for one-hot y.argmax(1)")
    if y.ndim != 1:
        raise ClatError(f"labels have shape {shape}, expected ({n},): one class number an image")
    if y.dtype != torch.int64:
        raise ClatError(f"labels are {y.dtype}, expected torch.int64: convert with y.long()")
    _check_gradients("labels", "y", y)
    if len(y) != n:
        raise ClatError(f"{counted(len(y), 'label')} for {counted(n, 'image')}: give one an image")
    if n == 0:
        return
    low, high = torch.stack(y.aminmax()).tolist()
    if num_classes is None:
        num_classes = max(high + 1, 1)
    if low < 0 or high >= num_classes:
        raise ClatError(
            f"labels lie in [{low}, {high}], expected 0 to {num_classes - 1}: does the model have all the classes?"
        )


def check_probabilities(y: torch.Tensor, n: int) -> None:
    """Raise an error unless `y` holds the probabilities of the classes for each of `n` images.

    Args:
        y: to be floating point, (n, K) of at least two classes, each row at least 0 with a sum of 1.
        n: how many images there are.

    Raises:
        ClatError: they are anything else.
    """
    shape = tuple(y.shape)
    if y.ndim != 2 or shape[1] < 2:
        raise ClatError(
            f"labels have shape {shape}, expected class numbers ({n},), y.long(), or probabilities ({n}, K)"
        )
    _check_gradients("labels", "y", y)
    if len(y) != n:
        raise ClatError(f"{len(y)} labels for {n} images: give one an image")
    if not bool((y >= 0).all() & ((y.double().sum(1) - 1).abs() < _NEAR_ONE).all()):
        raise ClatError("labels are no probabilities, at least 0 with a sum of 1: of logits give y.softmax(1)")


def kind_of(value: object) -> str:
    """Return the type of a value as a user knows it: "list", "numpy.ndarray".

    Args:
        value: any object.

    Returns:
        The name of its class, after that of the module unless the class is built in.
    """
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _check_gradients(what: str, name: str, value: torch.Tensor) -> None:
    if value.is_inference():
        raise ClatError(
            f"{what} were made under torch.inference_mode(), which keeps them from gradients: give {name}.clone()"
        )


def _digits(value: float) -> str:
    """Return three digits of a value, or as many as it takes to tell it from 0 and 1."""
    return next(
        text for digits in range(3, 18) if (text := f"{value:.{digits}g}") not in ("0", "1") or value in (0, 1)
    )


def at_least(what: str, value: float, least: float) -> None:
    """Raise an error unless a number is at least as large as asked for, and not too large for torch to take.

    Args:
        what: the name of the number in the message, such as "engine.devices".
        value: the number.
        least: the smallest that is allowed.

    Raises:
        ClatError: `value` is smaller, or nan, or a whole number that 64 bits do not hold.
    """
    if not value >= least:
        raise ClatError(f"{what} is {value}: expected at least {least}")
    if isinstance(value, int) and value > LARGEST:
        raise ClatError(f"{what} is {shown_number(value)}: expected at most {LARGEST}")


def shown_number(value: int) -> str:
    """Return a whole number as messages show it.

    Args:
        value: a number of any length.

    Returns:
        Its digits, or how many there are, where they would fill the line.
    """
    digits = math.ceil(value.bit_length() * math.log10(2))
    return str(value) if digits < 40 else f"a number of some {digits} digits"


def within(what: str, value: float, low: float, high: float) -> None:
    """Raise an error unless a number lies in an interval.

    Args:
        what: the name of the number in the message, such as "model.alpha".
        value: the number.
        low: the smallest that is allowed.
        high: the largest that is allowed.

    Raises:
        ClatError: `value` lies outside [low, high], or is nan.
    """
    if not low <= value <= high:
        raise ClatError(f"{what} is {value}: expected a value from {low} to {high}")
