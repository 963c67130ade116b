"""Stand between a foreign network and the tensors that it is given.

A network may write into its input (`x.sub_(mean).div_(std)`): then an attack's example would be another one
afterwards, and so would the caller's images. And it may take another floating type than the one in which images are
measured and attacked. Both are seen to at one place, the call of the network itself; what an attack costs does not
show it, since an image is small beside the features that a network makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.checks import channels_first_wanted, channels_last
from clat.network.logits import check_output
from clat.network.outputs import logits_of

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The floating types that images and weights may have."""


@contextmanager
def guarded(model: nn.Module, labels: Tensor | None = None, *, directions: bool = False) -> Iterator[None]:
    """Give `model`, each time it is called, a copy of its input, in its own floating type where it takes no other.

    Gradients flow through the copy. Half-precision outputs come back in float32, outside of autocast. Afterwards
    the model has its own forward again.

    Args:
        model: the network; only its outermost call is guarded.
        labels: (N,) int64; the first output is then refused, in one line, unless it is logits for all of them.
        directions: of gradients each image's direction alone counts, as in attacks. Those that enter a float16
            network are then brought to the size of 1, as the small ones of a confident network would vanish in it.
    """
    outer = vars(model).get("forward")
    inside = isinstance(outer, _Guard)
    # What torch.compile wrapped comes unwrapped through the edge; here it would be compiled anew for a copy.
    if (inside and labels is None) or hasattr(model, "_orig_mod"):
        yield
        return
    guard = _Guard(model, labels, directions)
    if isinstance(outer, _Guard):
        guard.forward = outer.forward
    vars(model)["forward"] = guard
    # Hooks on the network itself see what it was called with before, or after, its forward.
    hooked = not inside and (model._forward_pre_hooks or model._forward_hooks)
    handle = model.register_forward_pre_hook(_copy_input, prepend=True) if hooked else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        if outer is None:
            del vars(model)["forward"]
        else:
            vars(model)["forward"] = outer


def floating_type(model: nn.Module) -> torch.dtype | None:
    """Return the floating type that all parameters of `model` have.

    Args:
        model: any network.

    Returns:
        One of FLOATS; None where no parameter has one, or parameters have several.
    """
    found = {parameter.dtype for parameter in model.parameters() if parameter.dtype in FLOATS}
    return found.pop() if len(found) == 1 else None


def first_floating_type(model: nn.Module) -> torch.dtype | None:
    """Return the floating type of the first parameter that has one, which mostly is the one that images meet.

    Args:
        model: any network.

    Returns:
        One of FLOATS; None where no parameter has one.
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.dtype in FLOATS), None)


def input_channels(model: nn.Module) -> int | None:
    """Return how many channels the first convolution that a network registers takes.

    Args:
        model: any network.

    Returns:
        The number; None where it has no convolution.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((module.in_channels for module in model.modules() if isinstance(module, kinds)), None)


def _copy_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)


class _Directions(torch.autograd.Function):
    """float16 logits in float32, whose gradient comes back with a largest element of 1 in each row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(1, keepdim=True)
        return torch.where(largest > 0, gradient / largest, gradient).half()


class _Guard:
    """The call that stands in for `model.forward`."""

    def __init__(self, model: nn.Module, labels: Tensor | None, directions: bool = False) -> None:
        self.forward: Any = model.forward
        self.model = model
        self.own = first_floating_type(model)
        self.converts = False
        self.several = False
        """The network has returned more than a tensor."""
        self.labels = labels
        self.directions = directions

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            output = self._run(x, args, kwargs) if isinstance(x, Tensor) else self.forward(x, *args, **kwargs)
        except RuntimeError as error:
            if (
                isinstance(x, Tensor)
                and "channel" in str(error)
                and self._channels_come_last(x)
                and not isinstance(error, torch.OutOfMemoryError)
            ):
                raise channels_first_wanted(x.shape) from error
            raise
        self.several = not isinstance(output, Tensor)
        logits = logits_of(output)
        if self.labels is not None:
            check_output(logits, len(x), self.labels)
            self.labels = None
        half = isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16)
        if not half or torch.is_autocast_enabled(logits.device.type):
            return output
        direct = self.directions and logits.dtype == torch.float16 and logits.ndim == 2
        return _Directions.apply(logits) if direct else logits.float()

    def _channels_come_last(self, x: Tensor) -> bool:
        """Return whether images that the network refuses have their channels where it has none."""
        return x.ndim == 4 and channels_last(x.shape) and input_channels(self.model) == x.shape[-1]

    def _run(self, x: Tensor, args: Any, kwargs: Any) -> Any:
        if self.own in (None, x.dtype):
            return self.forward(x.clone(), *args, **kwargs)
        if not self.converts:
            try:  # a network may convert by itself, and more exactly: behind a normalisation, say
                return self.forward(x.clone(), *args, **kwargs)
            except RuntimeError as error:
                refusal = error
            self.converts = True
            try:
                return self.forward(x.to(self.own), *args, **kwargs)
            except RuntimeError:
                self.converts = False
                raise refusal from None
        return self.forward(x.to(self.own), *args, **kwargs)
