"""List the layers of any `nn.Module`, in the order in which a forward pass runs them.

CLAT speaks of "layer i" of a network F = f_n o ... o f_1 (paper v1 Eq. 1). Here a layer is a parametric module
(convolution, linear, attention block), numbered from 1 as the paper does, found by running the model once. Modules
that never run are left out, a module that runs several times counts at its first call that depends on the image,
and by default projection shortcuts and the final classifier are left out too: with this convention ResNet-18's
layer 11 has the 589,824 weights, and ResNet-50's layers 3, 34 and 41 the 823,296, that the paper's Table 9 prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.notices import notice
from clat.network.edge import unwrapped
from clat.network.groups import LAYER_GROUPS, check_group, group_of
from clat.network.heads import find_heads
from clat.network.trace import Runs, Seen, batch_axis, has_values, is_shortcut, matches


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
        call: which call of the module counts, from 0: the first that depends on the image.
        input_argument: which argument of the module is what enters it, a place or a keyword: the first that depends
            on the image, such as the key behind a learned query; None: the first tensor.
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
    call: int = 0
    input_argument: int | str | None = None


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

    The numbers count the layers that stay. A module that runs several times counts at its first call that depends
    on the image, which the recurrence from a constant is not. Layers that no image reaches in any call, such as
    those of a position embedding, or which the logits do not depend on, such as those of a decoder, are left out,
    with a notice unless `exclude` names them. Leaves no trace in the model.

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
        ClatError: a pattern matches nothing, or only layers that no image reaches, there is no such group, the
            batch is empty, or no layer is left.
    """
    model = unwrapped(model)
    check_group(group)
    if len(x) == 0:
        raise ClatError("the batch holds no image: finding the layers takes one")
    runs = Runs(model, x, include, lambda name, call: call == 0)
    calls = _later_calls(runs)
    if calls:
        runs = Runs(model, x, include, lambda name, call: call == calls.get(name, 0))
    seen, logits = runs.reached(), runs.logits
    unused = _unused(runs, seen)
    seen = [entry for entry in seen if entry.name not in unused]
    chosen = [entry for entry in seen if shortcuts or not is_shortcut(entry)]
    if not classifier and chosen:
        heads = {chosen[-1].name} if _is_classifier(chosen[-1], logits) else set()
        if not heads or any(_gives_logits(entry, logits) for entry in chosen[:-1]):  # there may be several
            heads |= _heads(runs, seen)
        chosen = [entry for entry in chosen if entry.name not in heads]
    unreached = [entry for entry in runs.twice.values() if entry.where not in {each.where for each in seen}]
    for pattern in (*include, *exclude):
        if any(fnmatchcase(entry.name, pattern) for entry in seen):
            continue
        silent = [entry.name for entry in unreached if fnmatchcase(entry.name, pattern)]
        if silent and pattern in include:
            raise ClatError(f"layer '{silent[0]}' runs, but {_why(silent[0] in unused)}, so leave it out")
        if not silent:
            raise unknown("layer pattern", pattern, [entry.name for entry in seen])
    if include:
        chosen = [entry for entry in chosen if matches(entry.name, include)]
    chosen = [entry for entry in chosen if not matches(entry.name, exclude)]
    left_out = [
        entry.name
        for entry in unreached
        if (not include or matches(entry.name, include))
        and not matches(entry.name, exclude)
        and group in (None, group_of(entry.name, entry.kind))
    ]
    for idle in (False, True):
        _tell_left_out([name for name in left_out if (name in unused) == idle], unused=idle)
    if not chosen and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ClatError("the network is TorchScript, which shows no layers: give the nn.Module it was made from")
    if group is not None:
        chosen = [entry for entry in chosen if group_of(entry.name, entry.kind) == group]
        if not chosen:
            raise ClatError(f"no layer of the group '{group}' is left: {LAYER_GROUPS[group]}")
    if not chosen:
        raise ClatError("no layer is left: the model ran no convolution or linear layer that the patterns keep")
    return [_layer(number, entry, model, runs) for number, entry in enumerate(chosen, start=1)]


_TOLD = 5


def _unused(runs: Runs, seen: Sequence[Seen]) -> set[str]:
    """Return which of the layers the logits do not depend on, heads of other outputs aside."""
    found = runs.unused(seen)
    return found - _heads(runs, seen) if found else found


def _heads(runs: Runs, seen: Sequence[Seen]) -> set[str]:
    return find_heads(runs.model, runs.x[:1].repeat_interleave(2, 0), dict(entry.where for entry in seen))


def _why(unused: bool) -> str:
    if unused:
        return "the logits do not depend on it"
    return "no image reaches it: what it reads and gives is the same for all images"


def _tell_left_out(names: Iterable[str], *, unused: bool) -> None:
    """Say which layers are left out, and why."""
    why = "which no image reaches: what they read and give is the same for all images"
    why = "on which the logits do not depend" if unused else why
    every = [f"'{name}'" for name in names]
    if every:
        told = ", ".join(every[:_TOLD]) + (f" and {len(every) - _TOLD} more" if len(every) > _TOLD else "")
        notice(f"left out of the layers: {told}, which run, but {why}")


def _later_calls(runs: Runs) -> dict[str, int]:
    """Return which call of a module counts, of those whose first one shows nothing of the image, as that of a
    recurrence from zeros: the first that differs between two images, else the first that images reach."""
    names = {
        entry.name
        for entry in runs.twice.values()
        if runs.calls[entry.name] > 1 and not (runs.grows(entry) and runs.differs(entry))
    }
    if not names:
        return {}
    every = Runs(runs.model, runs.x, runs.include, lambda name, call: name in names)
    reached = every.reached()
    differing = [entry for entry in reached if every.differs(entry)]
    return dict(entry.where for entry in reversed([*differing, *reached]))


def _layer(index: int, entry: Seen, model: nn.Module, runs: Runs) -> Layer:
    """Return what the runs tell of a layer.

    The shapes show the axis of the batch (sequence-first transformers have it second), and whose rows stay what
    they were which belong to the first sample.
    """
    shape, other, argument = list(entry.shape), runs.other.get(entry.where), runs.input_argument(entry)
    axis = runs.axis(entry)
    rows = _rows(entry.shape, runs.shapes.get(entry.where, (entry.shape, {}))[0], axis)
    key = next(iter(entry.input_shapes), None) if argument is None else argument
    two, three = runs.input_shapes(entry, key)
    input_axis = batch_axis(two, three)
    input_rows = _rows(two, three, input_axis)
    shape[axis] = rows
    if rows == 1:
        del shape[axis]
    same, different = (None if each is None or key is None else each.entering.get(key) for each in (entry, other))
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
        input_views_first=input_rows > 1 and _views_first(same, different, input_axis),
        norm_call=entry.call("norm"),
        activation_call=entry.call("activation"),
        norm_name=entry.norm_name,
        overwritten=entry.overwritten(),
        call=entry.number,
        input_argument=argument,
    )


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
    if same is None or other is None or same.shape != other.shape or not has_values(same):
        return False
    one, two = same.movedim(axis, 0), other.movedim(axis, 0)
    together, apart = (torch.allclose(one[part], two[part]) for part in (slice(len(one) // 2), slice(0, None, 2)))
    return apart and not together if together or apart else None


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


def _is_classifier(entry: Seen, logits: Tensor | None) -> bool:
    """Return whether the last layer to run has as many outputs as the model has classes."""
    return logits is not None and logits.dim() == 2 and entry.output.shape[1] == logits.shape[1]


def _gives_logits(entry: Seen, logits: Tensor | None) -> bool:
    """Return whether a layer's output has the shape of the logits."""
    return logits is not None and logits.dim() == 2 and entry.output.shape == logits.shape
