"""A program: the gradients of small convolutions against float64, as JSON on its standard output.

It runs in a process of its own, since the fault that the guard is for ends or hangs the process, or makes another
tensor's numbers wrong. `clat.attacks` is all of the package that it imports by name.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import clat.attacks  # noqa: F401

OUTPUTS = 16
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def cases() -> Iterator[dict[str, Any]]:
    """Kernels, strides, channels and layouts; then images large enough for AVX-512 to overrun, strides that differ,
    another layout for the weight, and transposed convolutions."""
    for kernel, stride, channels, layout in itertools.product((1, 3), (1, 2, 3), range(1, 9), FORMATS):
        yield case(kernel, (stride, stride), channels, layout)
    for channels in (1, 4, 8, 12, 15, 16):
        yield case(1, (2, 2), channels, "channels_last", size=(64, 64))
    for stride, channels in itertools.product(((1, 2), (2, 1), (2, 3)), (1, 4, 12)):
        yield case(1, stride, channels, "channels_last")
    for images, weights in itertools.permutations(FORMATS):
        yield case(1, (2, 2), 4, images, weights=weights)
    for channels, layout in itertools.product((1, 2, 4, 7, 12, 16), FORMATS):
        yield case(1, (2, 2), channels, layout, transposed=True)
    yield case(1, (2, 2), 4, "channels_last", size=(23, 24))
    yield case(1, (2, 2), 8, "channels_last", groups=2)


def case(
    kernel: int,
    stride: tuple[int, int],
    channels: int,
    images: str,
    weights: str | None = None,
    transposed: bool = False,
    size: tuple[int, int] = (24, 24),
    groups: int = 1,
) -> dict[str, Any]:
    return {**locals(), "weights": weights or images}


def errors(case: dict[str, Any]) -> list[float]:
    """Of output, input gradient, weight gradient and bias gradient: the largest difference to float64, over the
    largest value."""
    generator = torch.Generator().manual_seed(0)
    height, width = case["size"]
    kernel, stride, channels, groups = case["kernel"], case["stride"], case["channels"], case["groups"]
    further: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": groups}
    if case["transposed"]:
        x = torch.randn(4, OUTPUTS, height // 2, width // 2, generator=generator)
        weight = torch.randn(OUTPUTS, channels, kernel, kernel, generator=generator)
        bias = torch.randn(channels, generator=generator)
        further["output_padding"] = 1
    else:
        x = torch.randn(4, channels, height, width, generator=generator)
        weight = torch.randn(OUTPUTS, channels // groups, kernel, kernel, generator=generator)
        bias = torch.randn(OUTPUTS, generator=generator)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        inputs = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        y = (F.conv_transpose2d if case["transposed"] else F.conv2d)(*inputs, **further)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, inputs, upstream)]

    def laid(tensor: Tensor, layout: str) -> Tensor:
        return tensor.to(memory_format=FORMATS[layout])

    exact = run(x.double(), weight.double(), bias.double())
    found = run(laid(x, case["images"]), laid(weight, case["weights"]), bias)
    return [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    json.dump([[case, errors(case)] for case in cases()], sys.stdout)
