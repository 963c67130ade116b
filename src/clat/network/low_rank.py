"""Put low-rank factors beside the weights of chosen layers, which can be switched on and off, merged and dropped.

A weight W of shape (out, in, *kernel), `in` the channels of one group, becomes

    W + scale * reshape(B A),    A: (r k, in k'),  B: (out k, r k),

with k the kernel's first side and k' the product of the others (1 where there are none): ConvLoRA's factors (Aleem
et al. 2024) for a square kernel, LoRA's (Hu et al. 2022) for a linear layer. B starts at zero, so the network
starts as it was. It is a parametrization of torch, because everything that reads the layer's weight then gets the
sum: the layer stays the convolution it was for whoever enumerates layers, and an attack goes through it.

Hugging Face peft was considered and does not fit. It puts a module around each convolution that holds three, so
layers are counted three times over and every forward pass pays for two more convolutions; its factors are others (a
k x k convolution to r channels, then 1 x 1); it loses dilation, does not merge grouped convolutions, draws from the
global random state, and brings the libraries of language models along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.core.seeds import generator
from clat.network.computed import plain_weight
from clat.network.layers import enumerate_layers
from clat.network.swap import names_of, places

FactorStart = Literal["kaiming", "normal"]
"""How A is drawn: uniform within 1 / sqrt(columns), as ConvLoRA does, or standard normal, as AutoLoRa does."""


PURPOSE = "low-rank factors"
"""What needs the weights plain, in messages."""


class LowRank(nn.Module):
    """The parametrization of one weight. While `active` is False the weight is W itself.

    The sum is a new tensor, and W gets no gradient through it. Where the factors get none either, as in an attack,
    the sum is computed once and kept until a factor or W changes.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, start: FactorStart, draw: torch.Generator) -> None:
        super().__init__()
        side, rest = (weight.shape[2], math.prod(weight.shape[3:])) if weight.dim() > 2 else (1, 1)
        shape = (rank * side, weight.shape[1] * rest)
        if start == "normal":
            down = torch.randn(shape, generator=draw)
        else:
            down = (2 * torch.rand(shape, generator=draw) - 1) / math.sqrt(shape[1])
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0] * side, rank * side))
        self.scale = scale
        self.active = True
        self._computed: tuple[list[Tensor], list[int], Tensor] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active:
            return weight
        learning = torch.is_grad_enabled() and (self.down.requires_grad or self.up.requires_grad)
        if learning or torch.is_inference_mode_enabled():
            return self.added(weight.detach(), self.down, self.up)
        # Keeping the terms themselves means that no other tensor can take their place in memory.
        terms = [term.detach() for term in (weight, self.down, self.up)]
        key = [number for term in terms for number in (term.data_ptr(), term._version)]
        if self._computed is None or self._computed[1] != key:
            with torch.no_grad():
                self._computed = terms, key, self.added(*terms)
        return self._computed[2]

    def added(self, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Return W + scale * reshape(B A), in the weights' own precision.

        Args:
            weight: W, (out, in, *kernel).
            down: A, (r k, in k').
            up: B, (out k, r k).

        Returns:
            The sum, shaped like W.
        """
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (up @ down).view(weight.shape)


class _Held(NamedTuple):
    """The place of a weight that has factors.

    It is the parameter of `module` under `key`; `names` are all of the module's, `order` is that of its parameters.
    """

    module: nn.Module
    key: str
    names: list[str]
    order: list[str]
    layer: LowRank


class Branch:
    """The low-rank factors of several layers, named as in `model.named_modules()`.

    Building it puts them into the network, switched on; the same seed, the same factors. Layers that share a weight
    share its factors.

    Args:
        model: the network; the factors become parameters of it.
        names: the layers, each with a weight that is a parameter of its own.
        rank: r, at least 1.
        scale: factor of the product B A.
        start: how A is drawn, see FactorStart.
        seed: of the draw, from which each layer derives its own by its name.

    Raises:
        ClatError: a layer's weight is computed already.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], *, rank: int, scale: float, start: FactorStart, seed: int
    ) -> None:
        self.model = model
        self.layers: dict[str, LowRank] = {}
        self._held: list[_Held] = []
        weights = {name: plain_weight(model, name, PURPOSE) for name in names}
        where = places(model)
        for name, weight in weights.items():
            if any(weight is weights[earlier] for earlier in self.layers):
                continue
            layer = self.layers[name] = LowRank(weight, rank, scale, start, generator(seed, "low rank", name))
            for module, key, held in where[id(weight)]:
                self._held.append(_Held(module, key, names_of(model, module), list(held), layer))
                parametrize.register_parametrization(module, key, layer)

    @property
    def factors(self) -> list[nn.Parameter]:
        """Return A and B of each layer, in the order of the layers."""
        return [factor for layer in self.layers.values() for factor in (layer.down, layer.up)]

    def switch(self, on: bool) -> None:
        """Let all layers compute with their factors, or without.

        Args:
            on: whether the factors take part.
        """
        for layer in self.layers.values():
            layer.active = on

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Let all layers compute with their factors, or without, while the code inside runs.

        Args:
            on: whether the factors take part inside; afterwards each layer does as before.
        """
        before = [(layer, layer.active) for layer in self.layers.values()]
        self.switch(on)
        try:
            yield
        finally:
            for layer, active in before:
                layer.active = active

    def plain_names(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return the same parameters, the weights by the names that they have without the branch.

        Args:
            parameters: some of the network's parameters, as `named_parameters` calls them with the branch.

        Returns:
            The parameters, in their order; a factor keeps its name.
        """
        plain = {f"{name}.original": own for held in self._held for name, own in _names(held)}
        return {plain.get(name, name): parameter for name, parameter in parameters.items()}

    def export_state(self, state: dict[str, Tensor], *, merge: bool) -> dict[str, Tensor]:
        """Return the state dict of the network without the branch.

        Args:
            state: a state dict of the network with it, which stays as it is.
            merge: whether the factors are added to the weights, or dropped.

        Returns:
            The entries that the plain network has, by its names.
        """
        state = dict(state)
        for held in self._held:
            for name, own in _names(held):
                weight, down, up = (state.pop(f"{name}.{part}") for part in ("original", "0.down", "0.up"))
                state[own] = held.layer.added(weight, down, up) if merge else weight
        return state

    def remove(self, *, merge: bool) -> None:
        """Take the factors out of the network. Parameters keep their identity and their order.

        Args:
            merge: whether the factors are added to the weights, or dropped.
        """
        originals = {held.layer: held.module.parametrizations[held.key].original for held in self._held}  # type: ignore[index,union-attr]
        if merge:
            with torch.no_grad():
                for layer, weight in originals.items():  # once, however many layers share it
                    weight.copy_(layer.added(weight, layer.down, layer.up))
        for held in self._held:
            parametrize.remove_parametrizations(held.module, held.key, leave_parametrized=False)
            for key in held.order:
                held.module._parameters[key] = held.module._parameters.pop(key)
        self.layers, self._held = {}, []


def _names(held: _Held) -> Iterator[tuple[str, str]]:
    """Yield the parametrization's names in a state dict, each with that of the plain parameter."""
    for name in held.names:
        prefix = f"{name}." if name else ""
        yield f"{prefix}parametrizations.{held.key}", f"{prefix}{held.key}"


def classifier_of(model: nn.Module, x: Tensor) -> str | None:
    """Return the name of the last layer, if its outputs are the logits.

    Args:
        model: any network.
        x: images, (N, C, H, W) in [0, 1], of which one is used.

    Returns:
        The name, None where the last layer is no classifier.
    """
    with listening(lambda text: None):  # whoever lists the layers says what is left out
        inner = {layer.name for layer in enumerate_layers(model, x, shortcuts=True)}
        every = enumerate_layers(model, x, shortcuts=True, classifier=True)
    return next((layer.name for layer in every if layer.name not in inner), None)


def adaptable_layers(
    model: nn.Module,
    x: Tensor,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stem: bool = False,
    classifier: bool = False,
) -> list[str]:
    """Return the names of layers for low-rank factors: convolutions and linear layers, shortcuts among them.

    Args:
        model: any network.
        x: images, (N, C, H, W) in [0, 1], of which one is used.
        include: name patterns of layers to keep; none keeps all.
        exclude: name patterns of layers to leave out.
        stem: whether to keep the first layer.
        classifier: whether to keep the last layer, whose outputs are the logits.

    Returns:
        The names, in forward order, at least one.

    Raises:
        ClatError: none is left, or the weight of one is computed by other code.
    """
    with listening(lambda text: None):  # the list below says what is left out
        first = enumerate_layers(model, x, shortcuts=True, classifier=True)[0].name
    last = classifier_of(model, x)
    left_out = {name for name, wanted in ((first, stem), (last, classifier)) if not wanted}
    layers = enumerate_layers(model, x, include=include, exclude=exclude, shortcuts=True, classifier=True)
    names = [
        layer.name
        for layer in layers
        if layer.name not in left_out and isinstance(model.get_submodule(layer.name), _ConvNd | nn.Linear)
    ]
    if not names:
        raise ClatError("no layer is left for low-rank factors: widen include, or let the stem or classifier in")
    for name in names:
        plain_weight(model, name, PURPOSE)
    return names
