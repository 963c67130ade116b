"""List the layers of any `nn.Module`, in the order in which a forward pass runs them.

CLAT speaks of "layer i" of a network F = f_n o ... o f_1 (paper v1 Eq. 1). Here a layer is a parametric module
(convolution, linear, attention block), numbered from 1 as the paper does, found by running the model once. Modules
that never run are left out, a module that runs several times counts at its first call, and so are, by default,
projection shortcuts and the final classifier: with this convention ResNet-18's layer 11 has the 589,824 weights,
and ResNet-50's layers 3, 34 and 41 the 823,296, that the paper's Table 9 prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from clat.core.errors import ClatError, unknown
from clat.network import modes
from clat.network.calls import CallCounter
from clat.network.edge import unwrapped
from clat.network.groups import LAYER_GROUPS, check_group, group_of
from clat.network.heads import find_heads
from clat.network.outputs import first_argument, first_tensor

LAYER_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "linear": (nn.Linear, nn.Bilinear),
    "attention": (nn.MultiheadAttention,),
}
_SHORTCUT = re.compile(r"shortcut|downsample|skip", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of a network, as a forward pass showed it.

    Attributes:
        index: its number in forward order, from 1.
        name: the module's name in the network.
        kind: "conv", "linear", "attention", or "other" for a block that was made a layer by a pattern.
        num_params: how many numbers its weight and bias hold.
        feature_shape: the shape of one sample's output, without the batch.
        batch_axis: the axis of the batch in the output.
        input_axis: the axis of the batch in the input.
        rows: of that axis for each sample, in the output: more than 1 where windows, positions or views of an image
            are folded into the batch.
        input_rows: the same in the input.
        views_first: of several rows a sample, all samples' first ones come first; False: each sample's are
            together; None: nobody can tell.
        input_views_first: the same of the input.
        norm_call: which normalisation call after the layer's own, from 0, takes this very output; None where none
            does.
        activation_call: which activation call after the layer's own, from 0, is the first before the next layer
            runs; None where there is none. Both are counted from the layer on, since a branch that runs in training
            alone may come before it.
        norm_name: the BatchNorm module behind `norm_call`.
        overwritten: the taps whose tensor later code changes in place.
    """

    index: int
    name: str
    kind: str
    num_params: int
    feature_shape: tuple[int, ...]
    batch_axis: int = 0
    input_axis: int = 0
    rows: int = 1
    input_rows: int = 1
    views_first: bool | None = False
    input_views_first: bool | None = False
    norm_call: int | None = None
    activation_call: int | None = None
    norm_name: str | None = None
    overwritten: frozenset[str] = frozenset()


@dataclass
class _Seen:
    """The first call of a layer, as the tracing run noted it.

    It keeps for each tap the tensor, its version counter (to find later in-place changes) and, for the functional
    ones, the number of the call, from the layer's own on; `began`: how many calls of each kind came before that.
    """

    name: str
    module: nn.Module
    kind: str
    taps: dict[str, tuple[Tensor, int, int]]
    began: dict[str, int]
    norm_name: str | None = None

    def __init__(
        self, name: str, module: nn.Module, kind: str, entering: Tensor | None, output: Tensor, *, values: bool
    ) -> None:
        self.name, self.module, self.kind = name, module, kind
        self.shape = output.shape
        self.input_shape = torch.Size([1]) if entering is None else entering.shape
        # Either may be overwritten later in the pass.
        self.entering = entering.detach().clone() if values and entering is not None else None
        self.values = output.detach().clone() if values else None
        self.differentiable = output.requires_grad
        self.taps = {"output": (output, output._version, -1)}
        self.began = {}

    @property
    def output(self) -> Tensor:
        return self.taps["output"][0]

    def call(self, tap: str) -> int | None:
        return self.taps[tap][2] if tap in self.taps else None

    def overwritten(self) -> frozenset[str]:
        return frozenset(tap for tap, (value, version, _) in self.taps.items() if value._version != version)


def kind_of(module: nn.Module) -> str | None:
    """Return the kind of a layer.

    Args:
        module: any module.

    Returns:
        "conv", "linear" or "attention"; None for any other module.
    """
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
    """Return the layers of `model` in forward order, numbered from 1, found by one forward pass.

    The numbers count the layers that stay. Layers that no image reaches, such as those of a position embedding, are
    left out. Leaves no trace in the model.

    Args:
        model: any network, in any mode.
        x: images, (N, C, H, W) in [0, 1], of which one is used.
        include: name patterns ("layer3.*", "*.qkv"); a layer stays if it matches one of them, and where there are
            none. A pattern that fits none of the convolution, linear and attention layers may name modules of
            another kind that have parameters ("layer3.0", a block), which are then counted as layers.
        exclude: name patterns of layers to leave out.
        group: a name in `clat.network.groups.LAYER_GROUPS`, to keep the layers of one sort alone; None keeps all.
        shortcuts: whether to keep the projection shortcuts of residual blocks (1x1 convolutions below a module
            whose name says shortcut, downsample or skip).
        classifier: whether to keep the last layer, whose outputs are the logits, and other heads beside it
            (`clat.network.heads`).

    Returns:
        The layers, at least one.

    Raises:
        ClatError: a pattern matches nothing, there is no such group, the batch is empty, or no layer is left.
    """
    model = unwrapped(model)
    check_group(group)
    if len(x) == 0:
        raise ClatError("the batch holds no image: finding the layers takes one")
    # Two images at least: of one alone, a network that calls squeeze() gives logits without a batch axis.
    seen, logits = _trace(model, x[:1].repeat_interleave(2, 0), include, values=True)
    tripled = {
        entry.name: (entry.shape, entry.input_shape)
        for entry in _trace(model, x[:1].repeat_interleave(3, 0), include)[0]
    }
    pair = torch.cat([x[:1], _another(x[:1])]).detach()
    other = {entry.name: entry for entry in _trace(model, pair, include, values=True)[0]}
    seen = _reached(model, pair, include, seen, tripled, other)
    chosen = [entry for entry in seen if shortcuts or not _is_shortcut(entry)]
    if not classifier and chosen:
        heads = {chosen[-1].name} if _is_classifier(chosen[-1], logits) else set()
        if not heads or any(_gives_logits(entry, logits) for entry in chosen[:-1]):  # there may be several
            heads |= find_heads(model, x[:1].repeat_interleave(2, 0), [entry.name for entry in seen])
        chosen = [entry for entry in chosen if entry.name not in heads]
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
    return [
        _layer(number, entry, model, tripled.get(entry.name), other.get(entry.name))
        for number, entry in enumerate(chosen, start=1)
    ]


def _layer(
    index: int, entry: _Seen, model: nn.Module, tripled: tuple[torch.Size, torch.Size] | None, other: _Seen | None
) -> Layer:
    """Return what `entry` tells of a layer, of a sample twice; `tripled`: the shapes of its output and input of it
    three times; `other`: of it and another sample. Both are None where the layer runs for some images alone.

    The shapes show the axis of the batch (sequence-first transformers have it second), and whose rows stay what
    they were which belong to the first sample.
    """
    shape = list(entry.shape)
    tripled = (entry.shape, entry.input_shape) if tripled is None else tripled
    axis, input_axis = _batch_axis(entry.shape, tripled[0]), _batch_axis(entry.input_shape, tripled[1])
    rows, input_rows = _rows(entry.shape, tripled[0], axis), _rows(entry.input_shape, tripled[1], input_axis)
    shape[axis] = rows
    if rows == 1:
        del shape[axis]
    return Layer(
        index=index,
        name=entry.name,
        kind=entry.kind,
        num_params=sum(parameter.numel() for parameter in layer_parameters(model, entry.name)),
        feature_shape=tuple(shape),
        batch_axis=axis,
        input_axis=input_axis,
        rows=rows,
        input_rows=input_rows,
        views_first=rows > 1 and _views_first(entry.values, other.values if other else None, axis),
        input_views_first=input_rows > 1
        and _views_first(entry.entering, other.entering if other else None, input_axis),
        norm_call=entry.call("norm"),
        activation_call=entry.call("activation"),
        norm_name=entry.norm_name,
        overwritten=entry.overwritten(),
    )


def _another(x: Tensor) -> Tensor:
    """Return an image that differs from `x`, (1, C, H, W), in most pixels."""
    negative = 1 - x
    return torch.zeros_like(x) if _has_values(x) and torch.equal(negative, x) else negative


def _has_values(x: Tensor) -> bool:
    """Return whether a tensor holds numbers, other than those that only count what a pass would cost."""
    return not x.is_meta and not isinstance(x, FakeTensor)


def _reached(
    model: nn.Module,
    pair: Tensor,
    include: Sequence[str],
    seen: Sequence[_Seen],
    tripled: Mapping[str, tuple[torch.Size, torch.Size]],
    other: Mapping[str, _Seen],
) -> list[_Seen]:
    """Return the layers that images reach: they have a batch axis, and what they get or give differs between two
    images, or a gradient leads back to these, as from one that is dead for both."""
    growing = [entry for entry in seen if entry.name not in tripled or entry.shape != tripled[entry.name][0]]
    alike = {entry.name for entry in growing if _is_alike(entry, tripled.get(entry.name), other.get(entry.name))}
    if alike:
        try:
            traced = _trace(model, pair.clone().requires_grad_(True), include)[0]
        except RuntimeError:  # a network that goes by way of NumPy, say
            return growing
        alike -= {entry.name for entry in traced if entry.differentiable}
    return [entry for entry in growing if entry.name not in alike]


def _is_alike(entry: _Seen, tripled: tuple[torch.Size, torch.Size] | None, other: _Seen | None) -> bool:
    """Return whether a layer gets and gives the same for two images."""
    if tripled is None or other is None or other.values is None or not _has_values(other.values):
        return False
    pairs = [(other.values, _batch_axis(entry.shape, tripled[0]))]
    if other.entering is not None and entry.input_shape != tripled[1]:
        pairs.append((other.entering, _batch_axis(entry.input_shape, tripled[1])))
    return all(_same_rows(value.movedim(axis, 0)) for value, axis in pairs)


def _same_rows(value: Tensor) -> bool:
    """Return whether two samples' rows, (2 rows, ...), are the same, in whichever order they are."""
    if len(value) % 2:
        return False
    return torch.equal(*value.chunk(2)) or torch.equal(value[0::2], value[1::2])


def _rows(two: torch.Size, three: torch.Size, axis: int) -> int:
    """Return how many rows each sample has, by the shapes of two and of three; 1 where their number varies."""
    if axis >= len(two) or two[axis] % 2 or three[axis] * 2 != two[axis] * 3:
        return 1
    return two[axis] // 2


def _views_first(same: Tensor | None, other: Tensor | None, axis: int) -> bool | None:
    """Return whether of several rows a sample the first ones of all samples come first.

    Args:
        same: values of a sample twice.
        other: values of it and another one.
        axis: the batch's.

    Returns:
        False where each sample's rows are together; None where neither is so.
    """
    if same is None or other is None or same.shape != other.shape or not _has_values(same):
        return False
    one, two = same.movedim(axis, 0), other.movedim(axis, 0)
    together, apart = (torch.allclose(one[part], two[part]) for part in (slice(len(one) // 2), slice(0, None, 2)))
    return apart and not together if together or apart else None


def _batch_axis(one: torch.Size, two: torch.Size) -> int:
    """Return the axis in which the shapes of two samples and of three differ."""
    return next((axis for axis, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), 0)


def layer_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the weight and bias (and, for attention, the output projection) of a layer.

    Args:
        model: the network that has the layer.
        name: the layer's name, as `Layer.name`.

    Returns:
        The parameters themselves, those of modules inside it included.
    """
    return list(model.get_submodule(name).parameters())


def layers_called(layers: Sequence[Layer], names: Iterable[str]) -> list[Layer]:
    """Return the layers with these names.

    Args:
        layers: the layers of a network, from `enumerate_layers`.
        names: their exact names, as `Layer.name`; "4" is a name of nn.Sequential's, never a number.

    Returns:
        The layers, each once, in forward order.

    Raises:
        ClatError: there is no such layer; the message gives the nearest.
    """
    by_name = {layer.name: layer for layer in layers}
    wanted = list(names)
    for name in wanted:
        if name not in by_name:
            raise unknown("layer", name, list(by_name))
    return sorted({by_name[name] for name in wanted}, key=lambda layer: layer.index)


def find_layers(layers: Sequence[Layer], wanted: Sequence[str | int]) -> list[Layer]:
    """Return the layers that a user names, or gives the numbers of.

    Args:
        layers: the layers of a network, from `enumerate_layers`.
        wanted: names; or numbers as the criticality table shows them: 11, "11" or "#11".

    Returns:
        The layers, each once, in forward order.

    Raises:
        ClatError: there is no such layer (the message gives the nearest), or a bare number as text is the number of
            one layer and the name of another, as in an nn.Sequential.
    """
    by_name = {layer.name: layer for layer in layers}
    by_number = {str(layer.index): layer for layer in layers}
    found = []
    for one in wanted:
        text = str(one).removeprefix("#")
        number = by_number.get(text)
        named = by_name.get(str(one)) if isinstance(one, str) else None
        if named and number and named is not number and not str(one).startswith("#"):
            raise ClatError(
                f"'{one}' is the name of layer #{named.index} and the number of layer '{number.name}': "
                f"say #{named.index} or #{number.index}"
            )
        layer = named or number
        if layer is None:
            raise unknown("layer", str(one), list(by_name))
        found.append(layer.name)
    return layers_called(layers, found)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _trace(
    model: nn.Module, x: Tensor, include: Sequence[str], *, values: bool = False
) -> tuple[list[_Seen], Tensor | None]:
    """Run `model` once and note each layer's first call, with the calls that follow its output.

    `values`: keep what entered it and came out.
    """
    seen: dict[str, _Seen] = {}
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if kind_of(module) is not None]
    others = [pattern for pattern in include if not any(fnmatchcase(name, pattern) for name in layers)]
    running_norm: list[str] = []

    def note_layer(name: str, kind: str, module: nn.Module) -> RemovableHandle:
        def hook(module: nn.Module, args: Any, named: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if name not in seen and tensor is not None:
                seen[name] = _Seen(name, module, kind, first_argument(args, named), tensor, values=values)
                seen[name].began = dict(counter.counts)

        return module.register_forward_hook(hook, with_kwargs=True)

    def note_call(kind: str, number: int, argument: Any, result: Any) -> None:
        if kind == "norm":
            for entry in seen.values():
                if "norm" not in entry.taps and argument is entry.output:
                    entry.taps["norm"] = (result, result._version, number - entry.began["norm"])
                    entry.norm_name = running_norm[-1] if running_norm else None
            return
        main_path = [entry for entry in seen.values() if not _is_shortcut(entry)]
        if main_path and "activation" not in main_path[-1].taps:
            last = main_path[-1]
            last.taps["activation"] = (result, result._version, number - last.began["activation"])

    counter = CallCounter(note_call)
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
        with modes.attack_mode(model), torch.set_grad_enabled(x.requires_grad), counter:
            output = model(x.clone() if x.requires_grad else x)  # a leaf cannot be changed in place
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.values()), first_tensor(output)


def _is_shortcut(entry: _Seen) -> bool:
    """Return whether a layer is a projection shortcut: a 1x1 convolution under a name that says so.

    The kernel size keeps the downsampling convolutions of the main path, which some networks call `downsample` as
    well.
    """
    if entry.kind != "conv" or not _SHORTCUT.search(entry.name):
        return False
    kernel: tuple[int, ...] = entry.module.kernel_size  # type: ignore[assignment]
    return all(side == 1 for side in kernel)


def _is_classifier(entry: _Seen, logits: Tensor | None) -> bool:
    """Return whether the last layer to run has as many outputs as the model has classes."""
    return logits is not None and logits.dim() == 2 and entry.output.shape[1] == logits.shape[1]


def _gives_logits(entry: _Seen, logits: Tensor | None) -> bool:
    """Return whether a layer's output has the shape of the logits."""
    return logits is not None and logits.dim() == 2 and entry.output.shape == logits.shape
