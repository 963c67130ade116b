"""The small pieces that every network here is built from.

Nothing in a network works in place: features are captured by hooks on convolutions and BatchNorms, and an
in-place ReLU or addition would change what was captured after the fact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from clat.core.errors import unknown

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "silu": F.silu, "swish": F.silu}
"""Nonlinearities by name. SiLU and Swish are one function, x * sigmoid(x); papers use either name."""


def activation_named(name: str) -> Activation:
    """The nonlinearity of this name in ACTIVATIONS; an unknown one is a ClatError."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def conv3x3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of the map (stride 1) or halves it, rounding up (stride 2)."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def stage(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, count: int, stride: int
) -> nn.Sequential:
    """`count` residual blocks in a row; the first changes the channels (inputs to outputs) and the stride."""
    rest = [block(outputs, outputs, 1) for _ in range(count - 1)]
    return nn.Sequential(block(inputs, outputs, stride), *rest)


def pre_activation(
    x: Tensor,
    norm1: nn.Module,
    conv1: nn.Module,
    norm2: nn.Module,
    conv2: nn.Module,
    *,
    project: nn.Module | None,
    activation: Activation = F.relu,
    gate: nn.Module | None = None,
    raw_projection: bool = False,
) -> Tensor:
    """The pre-activation residual block (He et al. 2016, arXiv 1603.05027) on modules of any names.

    Norm, activation and convolution, twice, then `gate` if any, beside a shortcut. `project`, where shapes change,
    reads the activated input, or with `raw_projection` the raw one; None adds the raw input.
    """
    active = activation(norm1(x))
    shortcut = x if project is None else project(x if raw_projection else active)
    out = conv2(activation(norm2(conv1(active))))
    return (out if gate is None else gate(out)) + shortcut


def global_mean(feature: Tensor) -> Tensor:
    """Mean over the positions, (N, C, H, W) to (N, C).

    On 32x32 images it is the fixed-size average pooling of the public code; unlike it, it takes any size.
    """
    return feature.mean(dim=(2, 3))


def init_convolutions(net: nn.Module) -> None:
    """Draw every convolution weight from N(0, 2 / fan_out), Kaiming-normal in fan-out mode; biases become 0.

    fan_out = kernel height * kernel width * output channels (He et al. 2015, arXiv 1502.01852), which is also
    what the TRADES code does. BatchNorm and linear layers keep PyTorch's defaults. Uses the global generator.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
