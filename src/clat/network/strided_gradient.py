"""Compute weight gradients of strided convolutions on the CPU where oneDNN's own are wrong: two faults.

**1x1 kernels in float32 write outside of memory.** oneDNN (3.12 in torch 2.13, and by its source earlier ones too)
copies the pixels that the stride keeps before it computes this gradient. Where channels-last images have fewer
channels than a vector register holds numbers (8 under AVX2, 16 under AVX-512) it steps through that copy by whole
registers, though the copy was booked for the channels there are
(https://github.com/uxlfoundation/oneDNN/issues/6035). What lies behind it is overwritten: the process crashes,
hangs or goes on with other numbers. A transposed convolution has the fault in its output channels. Larger kernels,
stride 1, sizes that the stride does not divide, groups, other layouts, half precision, 1-D and 3-D convolutions,
forward passes and input gradients were tried and are sound.

**Wider kernels in bfloat16 leave numbers unwritten** where an image is narrower than the stride, as one of a single
pixel is at the end of a network that is deep for its images: parts of the gradient are whatever stood in that
memory, at times NaN. With oneDNN 3.12 under AVX512_BF16 and AMX this was seen with kernels 3 and 5 wide, images of
any height, one group and more; float32, float16, images as wide as the stride and dilated convolutions were sound.
Such a gradient is computed in float32, which costs nothing at that size. Of 1,234 bfloat16 operations, linear
layers and attention among them, each computed over two fillings of the memory, 46 differed without this and none
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

REGISTER = 16
"""Float32 numbers in the widest vector register; with as many channels nothing is overwritten."""

_OPERATOR: Any = torch.ops.aten.convolution_backward.default
_SHARED = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
"""Where torch keeps the kernel that all devices share: the CPU's own, which the guard replaces, was that one."""

_library: Library | None = None


def guard_strided_gradients() -> None:
    """Let torch compute the affected gradients in another way for the rest of this process.

    Those of 1x1 kernels are computed from the kept pixels with stride 1, those of wider ones in float32.

    What is replaced is the CPU kernel of the operation behind every convolution's backward pass, so it holds for
    any network, functional calls and compiled code, and no module is touched. The gradients are the same up to
    rounding. Whatever is not affected is left to torch's own kernel, bit for bit. Calling this again does nothing.
    """
    global _library
    if _library is None and torch.backends.mkldnn.is_available():
        _library = Library("aten", "IMPL")  # the kernel goes when this object does
        _library.impl("convolution_backward", _convolution_backward, "CPU")


def overruns(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool,
    groups: int,
) -> bool:
    """Return whether oneDNN may write outside of its memory when it computes this convolution's weight gradient.

    Args:
        gradient: gradient of the convolution's output, (N, C_out, H_out, W_out).
        x: its input, (N, C_in, H, W).
        weight: its weight, (C_out, C_in / groups, h, w), or (C_in, C_out / groups, h, w) where it is transposed.
        stride: a step for each spatial dimension, or one for all.
        padding: the same of the rows and columns that are added around the larger image.
        transposed: whether it is a transposed convolution, whose output is the larger image.
        groups: how many groups of channels are convolved apart.

    Returns:
        True for the 1x1 convolution, in float32 and one group, of unpadded channels-last images of fewer than 16
        channels whose size is that of the smaller images times a stride above 1.
    """
    if x.dim() != 4 or x.dtype != torch.float32 or weight.shape[2:] != (1, 1):
        return False
    if groups != 1 or max(stride) == 1 or any(padding):
        return False
    large, small = (gradient, x) if transposed else (x, gradient)
    if large.shape[1] >= REGISTER or large.shape[2:] != (small.shape[2] * stride[0], small.shape[3] * stride[-1]):
        return False
    # torch takes the layout from the input or the weight; that of a 1x1 weight shows in its last stride alone.
    return x.stride(1) == 1 or weight.stride(3) != 1


def leaves_unwritten(gradient: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], transposed: bool) -> bool:
    """Return whether oneDNN may leave parts of this convolution's weight gradient unwritten.

    Args:
        gradient: gradient of the convolution's output, as for `overruns`.
        x: its input.
        weight: its weight.
        stride: a step for each spatial dimension, or one for all.
        transposed: whether it is a transposed convolution, whose output is the larger image.

    Returns:
        True for a bfloat16 kernel wider than a pixel on images narrower than the stride.
    """
    large = gradient if transposed else x
    return x.dtype == torch.bfloat16 and weight.shape[-1] > 1 and large.shape[-1] < stride[-1]


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias that `output_mask` asks for; arguments as torch names them."""
    rest = (padding, dilation, transposed, output_padding, groups)
    wants_input, wants_weight, wants_bias = output_mask
    overrun = overruns(gradient, x, weight, stride, padding, transposed, groups)
    unwritten = leaves_unwritten(gradient, x, weight, stride, transposed)
    if not (wants_weight or wants_bias) or not (overrun or unwritten):
        return _OPERATOR.redispatch(_SHARED, gradient, x, weight, bias_sizes, stride, *rest, output_mask)
    of_input = of_weight = of_bias = None
    if wants_input:
        mask = (True, False, False)
        of_input = _OPERATOR.redispatch(_SHARED, gradient, x, weight, None, stride, *rest, mask)[0]
    if wants_weight and unwritten:
        exact = (gradient.float(), x.float(), weight.float())
        of_weight = _OPERATOR.redispatch(_SHARED, *exact, None, stride, *rest, (False, True, False))[1].to(x.dtype)
    elif wants_weight:
        kept = (..., slice(None, None, stride[0]), slice(None, None, stride[-1]))
        gradient_kept, x_kept = (gradient[kept], x) if transposed else (gradient, x[kept])
        unit = ((1, 1), (0, 0), (1, 1), transposed, (0, 0), 1)
        mask = (False, True, False)
        of_weight = _OPERATOR.redispatch(_SHARED, gradient_kept, x_kept, weight, None, *unit, mask)[1]
    if wants_bias:  # apart, since oneDNN computes it together with the weight's
        of_bias = gradient.sum((0, *range(2, gradient.dim())))
    return of_input, of_weight, of_bias
