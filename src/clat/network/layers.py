"""The layers of any `nn.Module`, in the order in which a forward pass runs them.

CLAT speaks of "layer i" of a network F = f_n o ... o f_1 (paper v1 Eq. 1). Here a layer is a parametric
module (convolution, linear, attention block), numbered from 1 as the paper does, found by running the model
once. Modules that never run are left out, a module that runs several times counts at its first call, and so
are, by default, projection shortcuts and the final classifier: with this convention ResNet-18's layer 11 has
the 589,824 weights, and ResNet-50's layers 3, 34 and 41 the 823,296, that the paper's Table 9 prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from clat.core.errors import ClatError, unknown
from clat.network import modes
from clat.network.edge import unwrapped
from clat.network.groups import LAYER_GROUPS, check_group, group_of
from clat.network.outputs import logits_of

LAYER_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear, nn.Bilinear),
    "attention": (nn.MultiheadAttention,),
}
_SHORTCUT = re.compile(r"shortcut|downsample|skip", re.IGNORECASE)

# Functions through which nn modules and functional code alike apply a normalisation or a nonlinearity.
NORMALISATIONS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
# fmt: off
ACTIVATIONS = frozenset({
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish",
    "softplus", "hardswish", "hardtanh", "hardsigmoid", "prelu", "rrelu", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "glu", "logsigmoid", "threshold",
})
# fmt: on


@dataclass(frozen=True)
class Layer:
    """One layer. `index` counts from 1 in forward order, `num_params` weight and bias, `feature_shape` is one
    sample's output without the batch, which is axis `batch_axis` of the output and `input_axis` of the input.

    `norm_call` and `activation_call` say which normalisation or activation call of a forward pass (counted
    from 0) belongs to this layer: the normalisation that takes this very output, and the first nonlinearity
    before the next layer runs; None where there is none. `norm_name` is the BatchNorm module behind
    `norm_call`. `overwritten` names the taps whose tensor later code changes in place.
    """

    index: int
    name: str
    kind: str
    num_params: int
    feature_shape: tuple[int, ...]
    batch_axis: int = 0
    input_axis: int = 0
    norm_call: int | None = None
    activation_call: int | None = None
    norm_name: str | None = None
    overwritten: frozenset[str] = frozenset()


@dataclass
class _Seen:
    """What the tracing run notes of one layer's first call: for each tap the tensor, its version counter (to
    find later in-place changes) and, for the functional ones, the number of the call."""

    name: str
    module: nn.Module
    kind: str
    taps: dict[str, tuple[Tensor, int, int]]
    norm_name: str | None = None

    def __init__(self, name: str, module: nn.Module, kind: str, entering: Tensor | None, output: Tensor) -> None:
        self.name, self.module, self.kind = name, module, kind
        self.input_shape = torch.Size([1]) if entering is None else entering.shape
        self.taps = {"output": (output, output._version, -1)}

    @property
    def output(self) -> Tensor:
        return self.taps["output"][0]

    def call(self, tap: str) -> int | None:
        return self.taps[tap][2] if tap in self.taps else None

    def overwritten(self) -> frozenset[str]:
        return frozenset(tap for tap, (value, version, _) in self.taps.items() if value._version != version)


class CallCounter(TorchFunctionMode):
    """Counts normalisation and activation calls of a forward pass and shows each to `seen(kind, number,
    argument, result)`, with its first argument. It sees modules (nn.ReLU) and functional code (F.relu) alike."""

    def __init__(self, seen: Any) -> None:
        super().__init__()
        self.counts = {"norm": 0, "activation": 0}
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        kind = "norm" if name in NORMALISATIONS else "activation" if name in ACTIVATIONS else None
        if kind is not None:
            self.seen(kind, self.counts[kind], args[0] if args else (kwargs or {}).get("input"), result)
            self.counts[kind] += 1
        return result


def first_tensor(output: Any) -> Tensor | None:
    """A module's output as a tensor: attention modules return (output, weights), classifiers may return more than
    logits."""
    found = logits_of(output)
    return found if isinstance(found, Tensor) else None


def first_argument(args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor that a module is called with, None if there is none."""
    return next((value for value in (*args, *named.values()) if isinstance(value, Tensor)), None)


def kind_of(module: nn.Module) -> str | None:
    """The kind of a layer ("conv", "linear", "attention"), or None for any other module."""
    return next((kind for kind, types in LAYER_KINDS.items() if isinstance(module, types)), None)


def enumerate_layers(
    model: nn.Module,
    x: Tensor,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    group: str | None = None,
    shortcuts: bool = False,
    classifier: bool = False,
) -> list[Layer]:
    """The layers of `model` in forward order, numbered from 1, found by one forward pass.

    `x`: (N, C, H, W) in [0, 1]; one sample is used. `include`: name patterns ("layer3.*", "*.qkv"); a
    layer stays if it matches one of them. A pattern that fits none of the convolution, linear and attention
    layers may name modules of another kind that have parameters ("layer3.0", a block), which are then counted
    as layers. `exclude`: name patterns of layers to leave out. `group`: only the layers of one sort, see
    `clat.network.groups.LAYER_GROUPS`. The numbers count the layers that stay.
    `shortcuts=True` keeps the projection shortcuts of residual blocks (1x1 convolutions below a module whose
    name says shortcut, downsample or skip); `classifier=True` keeps the last layer, whose output are the
    logits. Layers whose output has no batch axis, because no image reaches them, are left out. Raises ClatError
    for a pattern that matches nothing or a model without layers. Leaves no trace in the model.
    """
    model = unwrapped(model)
    check_group(group)
    if len(x) == 0:
        raise ClatError("the batch holds no image: finding the layers takes one")
    seen, logits = _trace(model, x[:1], include)
    doubled = {entry.name: entry for entry in _trace(model, x[:1].repeat_interleave(2, 0), include)[0]}
    seen = [entry for entry in seen if entry.output.shape != doubled[entry.name].output.shape]
    chosen = [entry for entry in seen if shortcuts or not _is_shortcut(entry)]
    if not classifier and chosen and _is_classifier(chosen[-1], logits):
        chosen = chosen[:-1]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(entry.name, pattern) for entry in seen):
            raise unknown("layer pattern", pattern, [entry.name for entry in seen])
    if include:
        chosen = [entry for entry in chosen if _matches(entry.name, include)]
    chosen = [entry for entry in chosen if not _matches(entry.name, exclude)]
    if not chosen and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ClatError("the network is TorchScript, which shows no layers: give the nn.Module it was made from")
    if group is not None:
        chosen = [entry for entry in chosen if group_of(entry.name, entry.kind) == group]
        if not chosen:
            raise ClatError(f"no layer of the group '{group}' is left: {LAYER_GROUPS[group]}")
    if not chosen:
        raise ClatError("no layer is left: the model ran no convolution or linear layer that the patterns keep")
    return [_layer(number, entry, model, doubled[entry.name]) for number, entry in enumerate(chosen, start=1)]


def _layer(index: int, entry: _Seen, model: nn.Module, doubled: _Seen) -> Layer:
    """`doubled`: the same of two samples, whose shapes show the axis of the batch (sequence-first transformers have
    it second)."""
    shape = list(entry.output.shape)
    axis = _batch_axis(entry.output.shape, doubled.output.shape)
    if shape[axis] == 1:
        del shape[axis]
    return Layer(
        index=index,
        name=entry.name,
        kind=entry.kind,
        num_params=sum(parameter.numel() for parameter in layer_parameters(model, entry.name)),
        feature_shape=tuple(shape),
        batch_axis=axis,
        input_axis=_batch_axis(entry.input_shape, doubled.input_shape),
        norm_call=entry.call("norm"),
        activation_call=entry.call("activation"),
        norm_name=entry.norm_name,
        overwritten=entry.overwritten(),
    )


def _batch_axis(one: torch.Size, two: torch.Size) -> int:
    """Return the axis in which the shapes of one sample and of two differ."""
    return next((axis for axis, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), 0)


def layer_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The weight and bias (and, for attention, the output projection) of the layer called `name`."""
    return list(model.get_submodule(name).parameters())


def find_layers(layers: Sequence[Layer], names: Sequence[str]) -> list[Layer]:
    """The layers with these names or numbers, in forward order; an unknown one gives the nearest."""
    by_name = {layer.name: layer for layer in layers} | {str(layer.index): layer for layer in layers}
    missing = [name for name in names if str(name) not in by_name]
    if missing:
        raise unknown("layer", missing[0], [layer.name for layer in layers])
    return sorted({by_name[str(name)] for name in names}, key=lambda layer: layer.index)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _trace(model: nn.Module, x: Tensor, include: Sequence[str]) -> tuple[list[_Seen], Tensor | None]:
    """Run `model` once and note each layer's first call, with the calls that follow its output."""
    seen: dict[str, _Seen] = {}
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if kind_of(module) is not None]
    others = [pattern for pattern in include if not any(fnmatchcase(name, pattern) for name in layers)]
    running_norm: list[str] = []

    def note_layer(name: str, kind: str, module: nn.Module) -> RemovableHandle:
        def hook(module: nn.Module, args: Any, named: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if name not in seen and tensor is not None:
                seen[name] = _Seen(name, module, kind, first_argument(args, named), tensor)

        return module.register_forward_hook(hook, with_kwargs=True)

    def note_call(kind: str, number: int, argument: Any, result: Any) -> None:
        if kind == "norm":
            for entry in seen.values():
                if "norm" not in entry.taps and argument is entry.output:
                    entry.taps["norm"] = (result, result._version, number)
                    entry.norm_name = running_norm[-1] if running_norm else None
            return
        main_path = [entry for entry in seen.values() if not _is_shortcut(entry)]
        if main_path and "activation" not in main_path[-1].taps:
            main_path[-1].taps["activation"] = (result, result._version, number)

    hooks = []
    for name, module in modules.items():
        kind = kind_of(module)
        if kind is None and name and _matches(name, others) and any(True for _ in module.parameters()):
            kind = "other"
        inside_attention = isinstance(modules.get(name.rpartition(".")[0]), nn.MultiheadAttention)
        if kind is not None and not inside_attention:
            hooks.append(note_layer(name, kind, module))
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(lambda m, a, name=name: running_norm.append(name)))
            hooks.append(module.register_forward_hook(lambda m, a, out: running_norm.clear()))
    try:
        with modes.attack_mode(model), torch.no_grad(), CallCounter(note_call):
            output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.values()), first_tensor(output)


def _is_shortcut(entry: _Seen) -> bool:
    """A projection shortcut: a 1x1 convolution under a name that says so. The kernel size keeps the
    downsampling convolutions of the main path, which some networks call `downsample` as well."""
    if entry.kind != "conv" or not _SHORTCUT.search(entry.name):
        return False
    kernel: tuple[int, ...] = entry.module.kernel_size  # type: ignore[assignment]
    return all(side == 1 for side in kernel)


def _is_classifier(entry: _Seen, logits: Tensor | None) -> bool:
    """The last layer to run, if it has as many outputs as the model has classes."""
    return logits is not None and logits.dim() == 2 and entry.output.shape[1] == logits.shape[1]
