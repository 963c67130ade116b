"""Check a network and images of somebody else's at the edge where they come in, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clat.core.checks import check_images, check_labels
from clat.core.errors import ClatError
from clat.network.guard import floating_type, input_channels

Network = nn.Module | Callable[[Tensor], Tensor]
"""What an attack can be made on: a module, or any function from images (N, C, H, W) in [0, 1] to logits (N, K)."""


def accept(model: nn.Module, x: Tensor, y: Tensor | None = None) -> tuple[nn.Module, Tensor]:
    """Return the network without its wrappers, and the images in the type they are measured and attacked in.

    That is float32, or float64 where images and network are. Conversions are exact. What the network itself takes
    is seen to where it is called (`clat.network.guard`).

    Args:
        model: any network; see `unwrapped`.
        x: images, (N, C, H, W), floating point in [0, 1].
        y: labels, (N,) int64, if there are any.

    Returns:
        The network and the images; both are the given objects where nothing had to be done.

    Raises:
        ClatError: no network, or one without values, images outside [0, 1], wrong labels, or float64 images with
            values that float32 does not hold for a network that is not float64.
    """
    model = unwrapped(model)
    _check_values(model)
    check_images(x, input_channels(model))
    if x.device.type == "mps":
        raise ClatError("images on 'mps', which has no float64: move network and images to the CPU")
    if y is not None:
        check_labels(y, None, len(x))
    return model, as_measured(model, x)


def accept_network(network: Network, x: Tensor, y: Tensor | None = None) -> tuple[nn.Module, Tensor]:
    """Return what `accept` does, for a network that may be a plain function.

    The modes of modules that a function calls are the caller's: nobody sees them from outside.

    Args:
        network: a module, a method of one, or a function from images (N, C, H, W) to logits (N, K).
        x: images, as for `accept`.
        y: labels, as for `accept`.

    Returns:
        The network as a module, and the images; see `accept`.

    Raises:
        ClatError: as `accept` does.
    """
    owner = getattr(network, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(network, "__name__", "") in ("forward", "__call__", "_call_impl"):
        network = owner  # a module's own call
    if not isinstance(network, nn.Module) and callable(network) and not isinstance(network, type):
        network = FunctionNetwork(network)
    return accept(network, x, y)  # type: ignore[arg-type]


def accept_on_device(model: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """Return what `accept` does, and images and labels on the network's device.

    Args:
        model: as for `accept`.
        x: images, as for `accept`.
        y: labels, as for `accept`.

    Returns:
        The network, the images and the labels.

    Raises:
        ClatError: as `accept` does.
    """
    model, x = accept(model, x, y)
    x, y = beside(model, x, y)
    return model, x, y


def beside(model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors on the network's device: images may be in memory while the network is on a GPU.

    Args:
        model: any network.
        tensors: such as images and labels.

    Returns:
        As many; as they are where the network has no tensors, or has them in several places.
    """
    places = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    if len(places) != 1 or (place := places.pop()).type == "meta":
        return tensors
    return tuple(tensor.to(place) for tensor in tensors)


def as_measured(model: nn.Module, x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is where both `x` and `model` are float64.

    Args:
        model: the network that the images are for.
        x: images, (N, C, H, W), floating point.

    Returns:
        The same values, exactly, without the gradient that may be asked of `x`.

    Raises:
        ClatError: `x` is float64 and holds digits that float32 does not.
    """
    x = x.detach() if x.requires_grad else x
    if x.dtype == torch.float32 or (x.dtype == torch.float64 and floating_type(model) == torch.float64):
        return x
    converted = x.float()
    if x.dtype == torch.float64 and not torch.equal(converted.double(), x):
        raise ClatError(
            "images are float64 and hold values that float32 does not, but the network is not float64: convert "
            "them with x.float()"
        )
    return converted


def _check_values(model: nn.Module) -> None:
    """Refuse a network whose weights hold no values; Accelerate's hooks fill them in when a layer is called."""
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(map(is_lazy, tensors)):
        raise ClatError("the model has lazy layers that have seen no image yet: call it on a batch once")
    places = {tensor.device.type for tensor in tensors}
    if places == {"meta"} and not any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ClatError(
            "the model's weights are on the device 'meta', without values: build it on another device, or load "
            "them by load_state_dict(..., assign=True)"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network that torch.compile or DataParallel wrapped, and one of TorchScript's as a module with
    hooks and flags.

    A compiled network would be compiled anew for every set of flags and hooks, and its layers have other names; the
    copies of DataParallel would compute with what is put into the original, on its device.

    Args:
        model: any network.

    Returns:
        The network inside; `model` itself where nothing wraps it.

    Raises:
        ClatError: `model` is no `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise ClatError(f"the model is a {type(model).__name__}, expected a torch.nn.Module: {_what_to_do(model)}")
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return Scripted(model) if isinstance(model, torch.jit.ScriptModule) else model


def _what_to_do(model: object) -> str:
    """Return how a network is had where something else was given for one."""
    if isinstance(model, str | Path):
        file = Path(model).suffix in (".pt", ".pth", ".safetensors", ".tar")
        call = f'NAME, weights="{model}"' if file else f'"{model}", weights=...'
        return f"load it first: clat.load_model({call})"
    if isinstance(model, Mapping):
        return "load it first: clat.load_model(NAME, weights=FILE), or load_state_dict of its network"
    return "wrap it in one that calls it"


class Scripted(nn.Module):
    """A network that TorchScript made, within a module that takes hooks, which it does not."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        if hasattr(script, "training"):
            self.script, self.training = script, script.training
        else:  # torch.jit.freeze leaves neither modes nor parameters: no part of this one
            vars(self)["script"], self.training = script, False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.script(x)
        return logits


class FunctionNetwork(nn.Module):
    """A function as a network without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's logits."""
        return self.function(x)
