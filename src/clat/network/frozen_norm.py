"""Run BatchNorm with stored statistics and weights that do not move at the price of a scale and a shift.

torch's own backward pass of such a BatchNorm still keeps its input and sums over it for gradients that nobody asked
for. The gradient towards the input is the output's, scaled by channel, so nothing need be kept: in an attack this
halves what a convolutional network remembers between its forward and its backward pass. After a convolution that
does not move either it is folded into that one (`clat.network.folding`); else the forward pass is torch's own, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import handle_torch_function, has_torch_function_variadic

from clat.network.folding import DeferredConv, FoldedConvs, deferred_input, is_checkpointed
from clat.network.slices import is_sharded

NORM_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


_TORCHS = _BatchNorm.forward
"""torch's own, which somebody may replace in its classes."""


class ScaledNorm(_BatchNorm):
    """A BatchNorm in a compiled block.

    While it is frozen within `frozen_norms_lean`, scale and shift are computed once and not by the compiler, which
    would take the root of the variance anew at every pixel.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.scale is None or self.shift is None:
            return super().forward(x)
        if not torch.compiler.is_compiling():
            return _forward(self, x)
        channels = [-1] + [1] * (x.dim() - 2)
        return (x * self.scale.view(channels) + self.shift.view(channels)).to(x.dtype)

    def settle(self) -> None:
        """Compute scale and shift, which hold while statistics and weights do; none if they may move."""
        self.scale = self.shift = None
        if self.running_mean is None or self.running_var is None or self.training or _moves(self):
            return
        with torch.no_grad():
            self.scale = (self.running_var + self.eps).rsqrt()
            if self.weight is not None:
                self.scale = self.scale * self.weight
            self.shift = -self.running_mean * self.scale
            if self.bias is not None:
                self.shift = self.shift + self.bias


SCALED: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(kind.__name__, (ScaledNorm, kind), {}) for kind in NORM_KINDS
}
"""The class that stands in for each kind within compiled blocks."""


@contextmanager
def frozen_norms_lean(model: nn.Module) -> Iterator[None]:
    """Have frozen BatchNorm modules of `model` keep nothing for the backward pass, while the code inside runs.

    Frozen is what runs in evaluation mode without a parameter that requires a gradient. A frozen convolution before
    one does its work too; the others run as ever.

    Args:
        model: the network. Statistics and weights of its frozen modules must not change inside.
    """
    # Subclasses and modules with a forward of their own (a callback's) may compute something else.
    norms: list[Any]
    norms = [
        module
        for module in model.modules()
        if type(module) in NORM_KINDS and "forward" not in module.__dict__ and type(module).forward is _TORCHS
    ]
    scaled = [module for module in model.modules() if isinstance(module, ScaledNorm)]
    before = [(norm, norm.scale, norm.shift) for norm in scaled]
    folds = FoldedConvs(model)
    # Compiled blocks fuse for themselves; of sharded ones a folded weight would outlast the gathered one.
    convolutions = [] if scaled or not norms or is_sharded(model) else folds.convolutions
    for convolution in convolutions:
        convolution.forward = partial(folds.forward, convolution)
    for norm in norms:
        norm.forward = partial(_forward, norm)
    for norm in scaled:
        norm.settle()
    try:
        with folds.at_work():
            yield
    finally:
        for module in (*convolutions, *norms):
            del module.forward
        for one, scale, shift in before:
            one.scale, one.shift = scale, shift


def _moves(norm: _BatchNorm) -> bool:
    return any(p is not None and p.requires_grad for p in (norm.weight, norm.bias))


def _forward(norm: _BatchNorm, input: Tensor) -> Tensor:  # torch's name, which a network may say
    x = input
    fixed = not norm.training and norm.running_mean is not None and norm.running_var is not None
    if fixed and not (_moves(norm) and torch.is_grad_enabled()):
        x = deferred_input(x, norm)
        if type(x) is DeferredConv and x.together:
            return x.normalised(norm)
    if type(x) is DeferredConv:
        x = x.plain()
    plain = not fixed or _moves(norm) or not (torch.is_grad_enabled() and x.requires_grad)
    if plain or is_checkpointed():
        return _BatchNorm.forward(norm, x)
    return batch_norm(x, norm)


def batch_norm(x: Tensor, norm: _BatchNorm) -> Tensor:
    """Return `norm(x)`; torch function modes see it under this name, like torch's own.

    Args:
        x: the input, (N, C, *positions).
        norm: a BatchNorm in evaluation mode, with stored statistics and parameters that get no gradient.

    Returns:
        The output, shaped like `x`; only the gradient towards `x` flows back.
    """
    if has_torch_function_variadic(x):
        return handle_torch_function(batch_norm, (x,), x, norm)
    assert norm.running_mean is not None
    zeros = torch.zeros_like(norm.running_mean)
    return _ScaleAndShift.apply(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, zeros, norm.eps)


class _ScaleAndShift(torch.autograd.Function):
    """The normalisation, whose backward pass needs nothing of its input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        zeros: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(var, weight, zeros)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        var, weight, zeros = ctx.saved_tensors
        # The linear part of the forward pass: mean and bias of zero.
        scaled = F.batch_norm(gradient, zeros, var, weight, None if weight is None else zeros, eps=ctx.eps)
        return scaled, None, None, None, None, None, None
