"""Which layers a stage may move, and the rule that decides it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.errors import ClatError, unknown
from clat.core.units import Size, parse_size
from clat.criticality.index import METRICS, NORMALISERS
from clat.criticality.ranking_report import Ranked
from clat.criticality.rankings import RANKINGS, REWINDING, layers_to_rank
from clat.network.features import TAPS
from clat.network.layers import Layer, find_layers
from clat.network.modes import BN_POLICIES


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rule of a stage. Without a selection a stage moves the whole network, classifier included."""

    rule: Literal["critical", "least-critical", "random", "all", "named"] = "critical"
    """`critical`: the k most critical by `ranking`. `least-critical`: the k least, for CLAT's criticality layer 1
    aside (its C is no ratio). `random`: k layers drawn anew at each selection. `all`: every layer. `named`:
    those in `layers`."""
    ranking: Literal["criticality", "mrc", "activation", "rewinding", "rewinding-drop"] = "criticality"
    """What `critical` and `least-critical` rank by, see `clat.criticality.rankings.RANKINGS`: CLAT's criticality,
    or another. RiFT is `rule = "least-critical", ranking = "mrc", k = 1`."""
    k: int = 1
    """How many layers (paper: about 5 % of them; 1 for ResNet-18, 3 for ResNet-50, 5 for DenseNet-121)."""
    every: int = 10
    """Select again after this many epochs of the stage (paper: 10); 0: decide once, the fixed selection."""
    layers: tuple[str | int, ...] = ()
    """For `named`: layer names, or numbers as the criticality table shows them."""
    include: tuple[str, ...] = ()
    """Only layers whose name matches one of these patterns take part ("layer3.*")."""
    exclude: tuple[str, ...] = ()
    """Layers whose name matches one of these patterns do not take part."""
    shortcuts: bool | None = None
    """Whether projection shortcuts take part; None: only under "mrc", as RiFT ranks every convolution and linear
    layer."""
    classifier: bool | None = None
    """Whether the classifier does; None: the same."""
    initial: str | None = None
    """The weight file that the rewinding rankings rewind to; None: the weights that the run began with."""
    initial_key: str | None = None
    """Which of several state dicts in that file, as `model.weights_key`."""
    num_samples: int = 100
    """Held-out images on which layers are ranked (CLAT's paper: one batch; 10 suffice)."""
    steps: int = 10
    """Steps of the attack within this measurement."""
    alpha: Size | None = None
    """Step size of this attack; None: 2.5 * eps / steps, or eps / steps of the activation attack."""
    normaliser: Literal["numel", "sqrt", "relative"] = "numel"
    """See `clat.criticality.NORMALISERS`; numel is the paper's."""
    tap: Literal["output", "norm", "activation"] = "output"
    """See `clat.network.features.TAPS`; the paper says the output of the layer."""
    metric: Literal["weakness", "curvature"] = "weakness"
    """See `clat.criticality.METRICS`."""

    def __post_init__(self) -> None:
        for kind, name, valid in (
            ("normaliser", self.normaliser, NORMALISERS),
            ("feature tap", self.tap, TAPS),
            ("metric", self.metric, METRICS),
            ("ranking", self.ranking, RANKINGS),
        ):
            if name not in valid:
                raise unknown(kind, name, valid)
        for what, number, least in (
            ("k", self.k, 1),
            ("every", self.every, 0),
            ("num_samples", self.num_samples, 1),
            ("steps", self.steps, 1),
        ):
            if number < least:
                raise ClatError(f"selection.{what} is {number}: expected at least {least}")
        if self.alpha is not None:
            parse_size(self.alpha, what="selection.alpha", norm="l2")
        if self.ranking != "criticality" and not self.ranks:
            raise ClatError(f"selection.ranking is '{self.ranking}', but the rule '{self.rule}' ranks nothing")
        if self.initial is not None and self.ranking not in REWINDING:
            raise ClatError("selection.initial names the weights of the rewinding rankings, and only of those")
        if self.initial_key is not None and self.initial is None:
            raise ClatError("selection.initial_key belongs to a weight file: name one in selection.initial")
        if (self.rule == "named") != bool(self.layers):
            raise ClatError("selection.layers names the layers of the rule 'named', and only of that rule")

    @property
    def ranks(self) -> bool:
        """Whether the rule needs a ranking."""
        return self.rule in ("critical", "least-critical")

    def due(self, done: int) -> bool:
        """Whether layers are selected after `done` epochs of the stage."""
        return done == 0 or (self.every > 0 and done % self.every == 0)

    def candidates(self, model: nn.Module, x: Tensor) -> list[Layer]:
        """The layers that take part, in forward order. `x`: (N, C, H, W) in [0, 1], of which one image is used."""
        return layers_to_rank(
            self.ranking,
            model,
            x,
            include=self.include,
            exclude=self.exclude,
            shortcuts=self.shortcuts,
            classifier=self.classifier,
        )


def select(rule: Selection, layers: Sequence[Layer], report: Ranked[Any] | None, seed: int) -> tuple[Layer, ...]:
    """The layers that move until the next selection, in forward order.

    `layers`: the candidates; `report`: their ranking, needed by the rules that rank; `seed`: for `random`.
    Raises ClatError if k exceeds the number of candidates or a named layer does not exist.
    """
    if rule.rule == "all":
        return tuple(layers)
    if rule.rule == "named":
        return tuple(find_layers(layers, [str(name) for name in rule.layers]))
    if rule.k > len(layers):
        raise ClatError(f"selection.k is {rule.k}, but the model has {len(layers)} layers to select from")
    if rule.rule == "random":
        return tuple(
            find_layers(layers, [layer.name for layer in random.Random(seed).sample(list(layers), rule.k)])
        )
    if report is None:
        raise ClatError(f"the rule '{rule.rule}' needs a criticality report or another ranking")
    return tuple(find_layers(layers, (report.top if rule.rule == "critical" else report.bottom)(rule.k)))


def trainable_parameters(model: nn.Module, layers: Sequence[Layer] | None) -> dict[str, nn.Parameter]:
    """Name -> parameter of what moves: the weight and bias of the selected layers, or everything (None)."""
    named = dict(model.named_parameters())
    if layers is None:
        return named
    wanted = {id(p) for layer in layers for p in model.get_submodule(layer.name).parameters()}
    return {name: parameter for name, parameter in named.items() if id(parameter) in wanted}


def updating_batch_norms(model: nn.Module, layers: Sequence[Layer], policy: str) -> set[_BatchNorm] | None:
    """The BatchNorm modules whose statistics a stage updates under `policy`; None means all of them."""
    if policy not in BN_POLICIES:
        raise unknown("BatchNorm policy", policy, BN_POLICIES)
    if policy == "update":
        return None
    if policy == "frozen":
        return set()
    followers = [model.get_submodule(layer.norm_name) for layer in layers if layer.norm_name]
    within = [module for layer in layers for module in model.get_submodule(layer.name).modules()]
    return {module for module in (*followers, *within) if isinstance(module, _BatchNorm)}
