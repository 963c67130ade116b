"""Compute a convolution and the frozen BatchNorm after it as one convolution.

BatchNorm with stored statistics multiplies each channel and adds to it, which the convolution before it can do by
itself with other weights: apart they take a quarter of a ResNet's time on a CPU. Which convolutions a BatchNorm
follows cannot be read off a network, so inside `frozen_norms_lean` a convolution that fed one when it last ran does
not compute; it returns a promise. BatchNorm computes both together; whatever else reads the promise has the plain
convolution computed, and the BatchNorm after it both together all the same, so that the bits do not depend on what
is known of a network. The numbers agree but for rounding; two whose results do not, as where somebody has put
another forward into torch's class, are left apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import has_torch_function_variadic

from clat.core.errors import ClatError
from clat.network.graph import nodes_behind

FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_feeding: WeakSet[nn.Module] = WeakSet()
"""The convolutions whose result a frozen BatchNorm has read."""

_feeding_alone: WeakSet[nn.Module] = WeakSet()
"""Those of them whose result nothing else read, by a gradient's graph: a function of autograd's of somebody's own
reads a promise without asking it, and its gradient would be lost."""

_apart: WeakSet[nn.Module] = WeakSet()
"""The convolutions that a BatchNorm follows and that did not compute with it what they compute alone."""

_running: list[FoldedConvs] = []
"""Those that are at work, the innermost last."""

_enabled = True


@contextmanager
def unfolded() -> Iterator[None]:
    """Have every layer compute for itself and in its own rounding, as a network does outside of attacks.

    It holds for the code inside and for all networks.
    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


class FoldedConvs:
    """The convolutions of a network while its weights do not change, and what they become with a BatchNorm."""

    def __init__(self, model: nn.Module) -> None:
        self.convolutions: list[Any]
        self.convolutions = [m for m in model.modules() if type(m) in FOLDABLE and "forward" not in m.__dict__]
        self._folded: dict[tuple[nn.Module, nn.Module, torch.dtype], _Folded] = {}
        self.watched: dict[nn.Module, Any] = {}
        """Convolutions whose result BatchNorm read in the pass that runs -> the node of that result."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have `readers_known` tell these, while the code inside runs."""
        _running.append(self)
        try:
            yield
        finally:
            _running.remove(self)
            self.watched.clear()

    def forward(self, convolution: _ConvNd, input: Tensor) -> Tensor:  # torch's name, which may be said
        """Return the convolution's result, or a promise of it.

        Args:
            convolution: one of `convolutions`.
            input: its input, (N, C_in, *positions).

        Returns:
            A promise (`DeferredConv`) where a frozen BatchNorm has read the result before, and for a gradient
            nothing else did; else the result, with a note of how it came to be.
        """
        possible = _enabled and convolution not in _apart and _plain_call(convolution, input)
        known = _feeding_alone if torch.is_grad_enabled() and input.requires_grad else _feeding
        if possible and convolution in known:
            return DeferredConv(self, convolution, input)
        result = type(convolution).forward(convolution, input)
        return self.noted(result, convolution, input, _Call.of(convolution, input)) if possible else result

    def noted(self, result: Tensor, convolution: _ConvNd, input: Tensor, call: _Call) -> Tensor:
        """Return a convolution's result with a note of how it came to be, for the BatchNorm that may read it.

        Args:
            result: the result, (N, C_out, *positions).
            convolution: one of `convolutions`.
            input: its input, as it was read.
            call: under what it was called.

        Returns:
            The result itself.
        """
        # The versions tell later whether somebody has changed either tensor in place.
        result.convolved = (result._version, self, convolution, input, input._version, call)  # type: ignore[attr-defined]
        return result

    def weights(self, convolution: _ConvNd, norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that stands for both.

        They are computed once and again after a source of them has changed.

        Args:
            convolution: the convolution.
            norm: the BatchNorm after it, with stored statistics.
            dtype: the type in which they are wanted, that of an autocast region.

        Returns:
            The weight, shaped like the convolution's, and the bias, (C_out,), both without history.
        """
        sources = (
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
        )
        known = self._folded.get((convolution, norm, dtype))
        if known is None or not known.of(sources):
            weight, bias = (part.to(dtype) for part in fold(convolution, norm))
            versions = [source._version for source in sources if source is not None]
            known = self._folded[convolution, norm, dtype] = _Folded(sources, versions, weight, bias)
        return known.weight, known.bias


class _Call(NamedTuple):
    """Under what a convolution was called; together with BatchNorm it is computed only if that still holds."""

    weight: Tensor
    bias: Tensor | None
    memory: tuple[int, ...]
    """Versions and places: weights may be changed, or others lent for a call, by way of `.data`."""
    differentiates: bool
    autocast: torch.dtype | None

    @classmethod
    def of(cls, convolution: _ConvNd, x: Tensor) -> _Call:
        weight, bias, device = convolution.weight, convolution.bias, x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return cls(weight, bias, _memory(weight, bias), torch.is_grad_enabled(), autocast)

    def holds(self, convolution: _ConvNd, x: Tensor) -> bool:
        now = _Call.of(convolution, x)
        return self.weight is now.weight and self.bias is now.bias and self[2:] == now[2:]

    def plain(self, convolution: Any, x: Tensor) -> Tensor:
        """Return what the convolution's own call would have."""
        if self.memory != _memory(self.weight, self.bias):
            raise ClatError(_late(convolution, "weights"))
        device = x.device.type
        with (
            torch.set_grad_enabled(self.differentiates),
            torch.autocast(
                device, self.autocast or torch.get_autocast_dtype(device), enabled=self.autocast is not None
            ),
        ):
            result: Tensor = convolution._conv_forward(x, self.weight, self.bias)
        return result


def _memory(*tensors: Tensor | None) -> tuple[int, ...]:
    """Return versions and places of the tensors that there are."""
    return tuple(number for one in tensors if one is not None for number in (one._version, _place(one)))


def _place(tensor: Tensor) -> int:
    if isinstance(tensor, FakeTensor):
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor without memory of its own, as inside torch.vmap
        return 0


def _late(convolution: nn.Module, what: str) -> str:
    return (
        f"the {what} of {convolution} changed in place before its result was read, in this pass and not in an "
        "earlier one: run the model within clat.network.folding.unfolded()"
    )


class _Folded(NamedTuple):
    """A folded weight and bias, and the `sources` they come from at which `versions`.

    `sources` are the tensors themselves, since another one may come to lie where a freed one was.
    """

    sources: tuple[Tensor | None, ...]
    versions: list[int]
    weight: Tensor
    bias: Tensor

    def of(self, sources: tuple[Tensor | None, ...]) -> bool:
        same = all(one is other for one, other in zip(self.sources, sources, strict=True))
        return same and self.versions == [source._version for source in sources if source is not None]


def fold(convolution: _ConvNd, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the weight and bias with which the convolution does what it and then `norm`, frozen, would.

    Args:
        convolution: any of FOLDABLE.
        norm: a BatchNorm with stored statistics, as many channels as the convolution puts out.

    Returns:
        The weight, shaped like the convolution's, and the bias, (C_out,), in float32 at least and without history.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    exact = torch.promote_types(convolution.weight.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(convolution.weight.device.type, enabled=False):
        weight, bias = fuse_conv_bn_weights(
            convolution.weight.to(exact),
            None if convolution.bias is None else convolution.bias.to(exact),
            norm.running_mean.to(exact),
            norm.running_var.to(exact),
            norm.eps,
            norm.weight,
            norm.bias,
        )
    return weight.detach(), bias.detach()


def deferred_input(x: Tensor, norm: _BatchNorm) -> Tensor:
    """Return what a frozen BatchNorm takes for its input: a promise of it if it is a convolution's result.

    Now that it is known who reads that, the first pass computes what later ones will.

    Args:
        x: what the BatchNorm was called with.
        norm: the BatchNorm.

    Returns:
        A promise, or `x` where it is nothing else, somebody waits for its gradient, it or the convolution's input
        was changed in place since, or both together do not compute what they compute apart.
    """
    if type(x) is DeferredConv and x.computed is not None:
        x = x.computed  # as in a first pass, where there is no promise either
    version, *convolved = getattr(x, "convolved", (None,))
    if version is None or x._version != version:
        return x
    folds, convolution, given, before, call = convolved
    if given._version != before:  # changed in place since: too late to compute anything from it
        return x
    if x._backward_hooks or x.retains_grad or x.numel() == 0 or not call.holds(convolution, given):
        return x
    if convolution not in _feeding and not _agree(DeferredConv(folds, convolution, given), x, norm):
        _apart.add(convolution)
        return x
    _feeding.add(convolution)
    if x.grad_fn is not None:
        if convolution in folds.watched:  # no gradient was asked for since: once more would be in vain
            folds.watched[convolution] = None
            return x
        folds.watched[convolution] = x.grad_fn
    return DeferredConv(folds, convolution, given)


def _agree(promise: DeferredConv, x: Tensor, norm: Any) -> bool:
    """Return whether convolution and BatchNorm compute together what they compute apart, but for rounding."""
    if isinstance(x, FakeTensor):  # which has no values
        return True
    with torch.no_grad():
        together, apart = _together(promise, norm), _BatchNorm.forward(norm, x)
        shift = norm.running_mean * (norm.running_var + norm.eps).rsqrt()
        size = apart.abs().max() + (shift if norm.weight is None else shift * norm.weight).abs().max()
        tolerance = 0.01 if torch.finfo(together.dtype).bits > 16 else 0.1  # 0.01: of TensorFloat32
        return not ((together - apart).abs().max() > tolerance * size)


def _together(promise: DeferredConv, norm: _BatchNorm) -> Tensor:
    """Return what `norm`, frozen, makes of a convolution's result, from one convolution."""
    device, dtype = promise.given.device.type, promise.convolution.weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    weight, bias = promise.folds.weights(promise.convolution, norm, dtype)
    result: Tensor = promise.convolution._conv_forward(promise.x, weight, bias)
    return result


def readers_known(value: Tensor) -> None:
    """Take note of which results of convolutions BatchNorm alone has read, now that a gradient is asked for.

    Where it did, the plain result, which was computed beside the promise, leads nowhere.

    Args:
        value: what the gradient is of.
    """
    for folds in _running:
        if folds.watched:
            behind = nodes_behind([value.grad_fn])
            known = {one: node for one, node in folds.watched.items() if node is not None}
            _feeding_alone.update(one for one, node in known.items() if node not in behind)
            folds.watched.clear()


class DeferredConv(Tensor):
    """The result of a convolution that is computed when somebody reads it."""

    folds: FoldedConvs
    convolution: Any
    given: Tensor
    version: int
    call: _Call
    computed: Tensor | None

    @staticmethod
    def __new__(cls, folds: FoldedConvs, convolution: nn.Module, x: Tensor) -> DeferredConv:
        promise = Tensor._make_subclass(cls, _NOTHING)  # a tensor, so that every function of torch asks it first
        promise.folds, promise.convolution, promise.computed = folds, convolution, None
        promise.given, promise.version, promise.call = x, x._version, _Call.of(convolution, x)  # type: ignore[arg-type]
        return promise

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*_computed(args), **_computed(kwargs or {}))

    @property
    def x(self) -> Tensor:
        """Return the convolution's input.

        Raises:
            ClatError: it has been overwritten since, which no earlier pass did.
        """
        if self.given._version != self.version:
            raise ClatError(_late(self.convolution, "input"))
        return self.given

    @property
    def together(self) -> bool:
        """Return whether a BatchNorm that reads it now may compute both: what held when the convolution was called
        still does."""
        return self.call.holds(self.convolution, self.given)

    def plain(self) -> Tensor:
        """Return the convolution's own result.

        Returns:
            The result, (N, C_out, *positions), computed once.

        Raises:
            ClatError: the convolution's input has been overwritten since.
        """
        if self.computed is None:
            _feeding_alone.discard(self.convolution)
            result = self.call.plain(self.convolution, self.x)
            self.computed = self.folds.noted(result, self.convolution, self.given, self.call)
        return self.computed

    def normalised(self, norm: _BatchNorm) -> Tensor:
        """Return the convolution's result as `norm`, frozen, normalises it.

        Args:
            norm: a BatchNorm with stored statistics.

        Returns:
            The result of both, (N, C_out, *positions), from one convolution.

        Raises:
            ClatError: the convolution's input has been overwritten since.
        """
        return _together(self, norm)


_NOTHING = torch.empty(0)


def _computed(given: Any) -> Any:
    """Return `given` with every promise in it kept."""
    if isinstance(given, DeferredConv):
        return given.plain()
    if type(given) in (list, tuple):
        return type(given)(_computed(part) for part in given)
    if type(given) is dict:
        return {key: _computed(part) for key, part in given.items()}
    return given


def is_checkpointed() -> bool:
    """Return whether a part of a network is running under activation checkpointing (the kind without reentry).

    It runs once more in the backward pass, and there it has to save the very same, also where that comes after the
    attack.

    Returns:
        False where torch does not say.
    """
    if torch.compiler.is_compiling():
        return False
    look = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    hooks = None if look is None else look(False)
    return hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint"


def _plain_call(convolution: _ConvNd, x: Tensor) -> bool:
    """Return whether nobody looks at the result unseen: no hooks, no gradient of the weights, no mode."""
    if torch.compiler.is_compiling() or has_torch_function_variadic(x) or is_checkpointed():
        return False
    if convolution.weight.dtype in (torch.float16, torch.bfloat16):
        return False  # whose product with BatchNorm's scale is rounded to another network
    if convolution._forward_hooks or convolution._forward_pre_hooks or convolution._backward_hooks:
        return False
    moves = convolution.weight.requires_grad or (convolution.bias is not None and convolution.bias.requires_grad)
    return not (moves and torch.is_grad_enabled())
