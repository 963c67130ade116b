"""Provide the small pieces that every network here is built from.

Nothing in a network works in place: features are captured by hooks on convolutions and BatchNorms, and an in-place
ReLU or addition would change what was captured after the fact.
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
    """Return the nonlinearity of a name.

    Args:
        name: A name in ACTIVATIONS.

    Returns:
        The function, which works on each value of a tensor and not in place.

    Raises:
        ClatError: There is none of that name.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def conv3x3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size of the map (stride 1) or halves it, rounding up (stride 2).

    Args:
        inputs: Channels that come in.
        outputs: Channels that come out.
        stride: The step, along height and width.
        bias: Whether it has a bias; a BatchNorm after it makes that needless.

    Returns:
        The convolution, (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)).
    """
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias.

    Args:
        inputs: Channels that come in.
        outputs: Channels that come out.
        stride: The step, along height and width.

    Returns:
        The convolution, (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)).
    """
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def stage(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, count: int, stride: int
) -> nn.Sequential:
    """Return residual blocks in a row, the first of which changes the channels and the stride.

    Args:
        block: Makes a block of so many input channels, output channels, and a stride.
        inputs: Channels that come in.
        outputs: Channels that come out.
        count: How many blocks there are, at least one.
        stride: Of the first block; the others have stride 1.

    Returns:
        The blocks.
    """
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
    """Return what a pre-activation residual block gives (He et al. 2016, arXiv 1603.05027).

    Its modules may have any names. Norm, activation and convolution, twice, then `gate` if any, beside a shortcut.

    Args:
        x: The input, (N, C, H, W).
        norm1: Normalises the input.
        conv1: The first convolution.
        norm2: Normalises its result.
        conv2: The second convolution.
        project: The shortcut's convolution where shapes change; None adds the raw input.
        activation: The nonlinearity.
        gate: Scales the residual, as squeeze-and-excitation does.
        raw_projection: Whether `project` reads the raw input and not the activated one.

    Returns:
        The sum of residual and shortcut, (N, C_out, H', W').
    """
    active = activation(norm1(x))
    shortcut = x if project is None else project(x if raw_projection else active)
    out = conv2(activation(norm2(conv1(active))))
    return (out if gate is None else gate(out)) + shortcut


def global_mean(feature: Tensor) -> Tensor:
    """Return the mean over the positions.

    On 32x32 images it is the fixed-size average pooling of the public code; unlike it, it takes any size.

    Args:
        feature: A map, (N, C, H, W).

    Returns:
        The means, (N, C).
    """
    return feature.mean(dim=(2, 3))


def init_convolutions(net: nn.Module) -> None:
    """Draw every convolution weight from N(0, 2 / fan_out), Kaiming-normal in fan-out mode; biases become 0.

    fan_out = kernel height * kernel width * output channels (He et al. 2015, arXiv 1502.01852), which is also what
    the TRADES code does. BatchNorm and linear layers keep PyTorch's defaults. Uses the global generator.

    Args:
        net: The network, whose convolutions are changed in place.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
