"""Read the hidden features F_i(x) of chosen layers, running the network no further than they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.network.calls import CallCounter
from clat.network.compiled import parts_as_written
from clat.network.edge import unwrapped
from clat.network.layers import Layer
from clat.network.outputs import first_tensor, tensor_arguments
from clat.network.slices import gather_for_gradient, is_sharded

TAPS = ("output", "norm", "activation")
"""Where a layer's feature is read: at its own output (the paper's words), after the normalisation that takes
this output, or after the first nonlinearity that follows (residual additions in between included). A layer
without the wanted tap falls back to the one before it. A swish that is written out, h * sigmoid(h), is read at its
sigmoid."""


class Features(NamedTuple):
    """The features of chosen layers for a batch.

    Attributes:
        values: one entry a layer, in the order asked for, then, if asked for, one for what enters each.
        logits: (N, classes), or None if the forward pass stopped early.
    """

    values: list[Tensor]
    logits: Tensor | None


class _Enough(Exception):
    """Leaves the forward pass once every wanted feature has been read."""


def read_features(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[Layer],
    *,
    tap: str = "output",
    stop: bool = False,
    flat: bool = True,
    inputs: bool = False,
    reduce: Callable[[Tensor, Layer], Tensor] | None = None,
) -> Features:
    """Run `model` on `x` and return the features of `layers`.

    Of a layer that runs several times they are those of the call that `Layer.call` says. Gradients flow as in any
    forward pass; modes and flags are the caller's.

    Args:
        model: the network in which `layers` were found.
        x: images, (N, C, H, W) in [0, 1].
        layers: the layers to read, from `enumerate_layers`, in any order.
        tap: where a layer's feature is read, one of TAPS.
        stop: whether to leave the forward pass at the deepest wanted layer; the logits are then None and nothing
            above it is computed. A sharded network runs to its end, as its blocks have to.
        flat: whether features are flattened to (N, N_i). Else they keep their own shape, the batch first (but for
            those of several rows a sample), and their own memory layout, which a flattened feature of a
            channels_last network would have to be copied out of, and its gradient too.
        inputs: whether to read the tensors that enter the layers as well, by which no tap is meant; of several
            the one that `Layer.input_argument` says.
        reduce: called as `reduce(feature, layer)` on the spot, whose result takes the feature's place, so that a
            full set of features need not be held at once.

    Returns:
        The features in the order of `layers`, then what enters them, and the logits.

    Raises:
        ClatError: the tap is unknown, a layer is none of the model's or did not run, or an input is no tensor.
    """
    if tap not in TAPS:
        raise unknown("feature tap", tap, TAPS)
    model = unwrapped(model)
    values: dict[int, Tensor] = {}
    stop = stop and not is_sharded(model)
    count, wanted = x.shape[0], len(layers) * (2 if inputs else 1)

    def due(position: int, layer: Layer) -> bool:
        """Return whether this is the call that counts, of those that take or give a tensor."""
        passed[position] += 1
        return passed[position] == layer.call + 1

    def keep(position: int, layer: Layer, where: str, feature: Tensor) -> None:
        gather_for_gradient(model, feature)
        # It may be changed in place yet: by what `overwritten` saw, or by dropout, which writes in training alone.
        if where in layer.overwritten or model.training or (where == "input" and reduce is None):
            feature = feature.clone()
        value = feature.movedim(layer.input_axis if where == "input" else layer.batch_axis, 0)
        value = _by_sample(value, layer, where, count)
        if flat:
            value = value.reshape(count, -1)
        values[position] = reduce(value, layer) if reduce is not None else value
        if stop and len(values) == wanted:
            raise _Enough

    calls = [_call(layer, tap) for layer in layers]
    awaited: dict[tuple[str, int], list[int]] = {}  # kind and number of a call -> positions

    def on_input(position: int, layer: Layer, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given = tensor_arguments(args, named)
        key = next(iter(given), None) if layer.input_argument is None else layer.input_argument
        tensor = given.get(key) if key is not None else None
        if tensor is not None and due(position, layer):
            keep(position, layer, "input", tensor)

    def on_output(position: int, output: Any) -> None:
        call, tensor = calls[position], first_tensor(output)
        if tensor is None or not due(position, layers[position]):
            return
        if call is None:
            keep(position, layers[position], "output", tensor)
        else:
            kind, number = call
            awaited.setdefault((kind, counter.counts[kind] + number), []).append(position)

    def on_call(kind: str, number: int, argument: Any, result: Any) -> None:
        for position in awaited.get((kind, number), ()):
            keep(position, layers[position], kind, result)

    counter, passed = CallCounter(on_call), Counter[int]()
    modules = dict(model.named_modules())
    strange = [layer.name for layer in layers if layer.name not in modules]
    if strange:
        raise ClatError(f"the model has no layer '{strange[0]}': call enumerate_layers on this model")
    logits: Tensor | None = None
    with ExitStack() as stack:
        stack.enter_context(parts_as_written(model))
        for position, layer in enumerate(layers):
            handle = modules[layer.name].register_forward_hook(
                lambda module, args, output, p=position: on_output(p, output)
            )
            stack.callback(handle.remove)
        for position, layer in enumerate(layers, start=len(layers)) if inputs else ():
            handle = modules[layer.name].register_forward_pre_hook(
                lambda module, args, named, p=position, at=layer: on_input(p, at, args, named), with_kwargs=True
            )
            stack.callback(handle.remove)
        if any(call is not None for call in calls):
            stack.enter_context(counter)
        try:
            logits = first_tensor(model(x))
        except _Enough:
            logits = None
    silent = [layer.name for position, layer in enumerate(layers) if position not in values]
    if silent:
        raise ClatError(
            f"layer '{silent[0]}' did not run in a forward pass: exclude it if it is left out by chance, else call "
            "enumerate_layers again"
        )
    unread = [layers[position - len(layers)].name for position in range(wanted) if position not in values]
    if unread:
        raise ClatError(f"layer '{unread[0]}' takes no tensor, so there is no input to compare it with")
    return Features([values[position] for position in range(wanted)], logits)


def _by_sample(value: Tensor, layer: Layer, where: str, count: int) -> Tensor:
    """Return a feature whose first axis is the batch as (N, ...), where it has several rows a sample: windows,
    positions or views, say, that are folded into the batch."""
    rows, views_first = layer.rows, layer.views_first
    if where == "input":
        rows, views_first = layer.input_rows, layer.input_views_first
    elif where != "output" and len(value) != rows * count and len(value) % count == 0:
        rows = len(value) // count  # of a call that comes after the rows were brought together, say
    if len(value) != rows * count:
        raise ClatError(
            f"layer '{layer.name}' ran on {len(value)} rows where {count} images have {rows * count}: the network "
            "gives it a part of the batch at a time, and only the first is seen"
        )
    if rows == 1:
        return value
    if views_first is None:
        raise ClatError(
            f"layer '{layer.name}' has {rows} rows of each image, in an order that does not tell whose they are: "
            "leave it out (exclude)"
        )
    if views_first:
        return value.reshape(rows, count, *value.shape[1:]).transpose(0, 1)
    return value.reshape(count, rows, *value.shape[1:])


def _call(layer: Layer, tap: str) -> tuple[str, int] | None:
    """Return the functional call, counted from the layer on, that holds its feature; None: the module's output."""
    if tap == "activation" and layer.activation_call is not None:
        return "activation", layer.activation_call
    if tap != "output" and layer.norm_call is not None:
        return "norm", layer.norm_call
    return None


def feature_distance(feature: Tensor, other: Tensor) -> Tensor:
    """Return ||F_i(x') - F_i(x)||_2 for each sample.

    Args:
        feature: features F_i(x'), (N, ...).
        other: features F_i(x) of the same layer, shaped alike.

    Returns:
        The distances, (N,), in float32 at least.
    """
    return feature_norm(feature - other)


def feature_norm(feature: Tensor) -> Tensor:
    """Return ||F_i(x)||_2 for each sample.

    Args:
        feature: features F_i(x), (N, ...).

    Returns:
        The norms, (N,), in float32 at least.
    """
    wide = torch.promote_types(feature.dtype, torch.float32)
    return torch.linalg.vector_norm(feature, dim=tuple(range(1, feature.dim())), dtype=wide)
