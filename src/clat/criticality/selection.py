"""Selection of the layers that a stage may move, and the rule that decides it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import ValidatorFunctionWrapHandler, WrapValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.checks import at_least
from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted
from clat.core.units import Size
from clat.criticality.ranking_report import Ranked
from clat.criticality.rankings import AnyRanking, CriticalityRanking, make_ranking
from clat.network.groups import check_group
from clat.network.layers import Layer, enumerate_layers, find_layers, layers_called
from clat.network.modes import BN_POLICIES

RULES = ("critical", "least-critical", "random", "all", "named")
FLAT = {"steps": 10, "normaliser": "numel", "tap": "output", "metric": "weakness"}
"""Settings of a ranking that may stand beside its name, as all did before rankings had tables, and what older
recipes say of them whatever they rank by."""

BY_CRITICALITY = CriticalityRanking()


def _leave_names(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Leave a ranking's name to `Selection`, which has the settings that stand beside it."""
    return value if isinstance(value, str) else check(value)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rule of a stage by which layers are selected.

    Without a selection a stage moves the whole network, classifier included.
    """

    rule: Literal["critical", "least-critical", "random", "all", "named"] = "critical"
    """`critical`: the k most critical by `ranking`. `least-critical`: the k least. For CLAT's criticality layer 1,
    whose C is no ratio, is the last that `critical` takes, and none that `least-critical` does. `random`: k layers
    drawn anew at each selection. `all`: every layer. `named`: those in `layers`."""
    ranking: Annotated[AnyRanking, WrapValidator(_leave_names)] = BY_CRITICALITY
    """What `critical` and `least-critical` rank by, see `clat.criticality.rankings`: criticality, or another.
    A ranking, in a recipe a table {name = "mrc", radius = 0.2}, or its name with what is to differ beside it: RiFT
    is `rule = "least-critical", ranking = "mrc", k = 1`."""
    k: int = 1
    """How many layers (paper: about 5 % of them; 1 for ResNet-18, 3 for ResNet-50, 5 for DenseNet-121)."""
    every: int = 10
    """Select again after this many epochs of the stage (paper: 10); 0: decide once, the fixed selection."""
    layers: tuple[str | int, ...] = ()
    """For `named`: layer names, or numbers as the criticality table shows them (11 or "#11")."""
    include: tuple[str, ...] = ()
    """Only layers whose name matches one of these patterns take part ("layer3.*")."""
    exclude: tuple[str, ...] = ()
    """Layers whose name matches one of these patterns do not take part."""
    group: Literal["attention", "mlp", "convolutions"] | None = None
    """Only the layers of one sort take part, see `clat.network.groups.LAYER_GROUPS`."""
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
    # Settings of a ranking that is given by its name; they end in `ranking`.
    steps: InitVar[int | None] = None
    alpha: InitVar[Size | None] = None
    normaliser: InitVar[Literal["numel", "sqrt", "relative", "none"] | None] = None
    tap: InitVar[Literal["output", "norm", "activation"] | None] = None
    metric: InitVar[Literal["weakness", "curvature"] | None] = None

    def __post_init__(
        self, steps: int | None, alpha: Size | None, normaliser: str | None, tap: str | None, metric: str | None
    ) -> None:
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        flat = {"steps": steps, "alpha": alpha, "normaliser": normaliser, "tap": tap, "metric": metric}
        given = {name: value for name, value in flat.items() if value is not None}
        object.__setattr__(self, "ranking", _resolved(self.ranking, given))
        check_group(self.group)
        for what, least in (("k", 1), ("every", 0), ("num_samples", 1)):
            at_least(f"selection.{what}", getattr(self, what), least)
        if self.ranking.name != "criticality" and not self.ranks:
            raise ClatError(f"selection.ranking is '{self.ranking.name}', but the rule '{self.rule}' ranks nothing")
        if self.initial is not None and not self.ranking.needs_initial:
            raise ClatError("selection.initial names the weights of the rewinding rankings, and only of those")
        if self.initial_key is not None and self.initial is None:
            raise ClatError("selection.initial_key belongs to a weight file: name one in selection.initial")
        if (self.rule == "named") != bool(self.layers):
            raise ClatError("selection.layers names the layers of the rule 'named', and only of that rule")

    @property
    def ranks(self) -> bool:
        """Return whether the rule needs a ranking."""
        return self.rule in ("critical", "least-critical")

    @property
    def moves_classifier(self) -> bool:
        """Return whether the classifier is among the layers that may be selected."""
        return self.ranking.whole_network if self.classifier is None else self.classifier

    def due(self, done: int) -> bool:
        """Return whether layers are selected at this point of the stage.

        Args:
            done: epochs of the stage that are done.

        Returns:
            True at the start, and after each `every` epochs.
        """
        return done == 0 or (self.every > 0 and done % self.every == 0)

    def candidates(self, model: nn.Module, x: Tensor) -> list[Layer]:
        """Return the layers that take part.

        Args:
            model: the network.
            x: images, (N, C, H, W) in [0, 1], of which one is used.

        Returns:
            The layers, in forward order.

        Raises:
            ClatError: for a pattern that matches no layer, or if none is left.
        """
        return enumerate_layers(
            model,
            x,
            include=self.include,
            exclude=self.exclude,
            group=self.group,
            shortcuts=self.ranking.whole_network if self.shortcuts is None else self.shortcuts,
            classifier=self.moves_classifier,
        )


def _resolved(ranking: AnyRanking | str, flat: dict[str, Any]) -> AnyRanking:
    """Return the ranking that is meant by itself or by its name and the settings `flat` that stand beside it."""
    if not isinstance(ranking, str):
        if not flat:
            return ranking
        if ranking != type(ranking)():
            name = next(iter(flat))
            raise ClatError(
                f"selection.{name} is a setting of the ranking: write it into its table, "
                f'ranking = {{ name = "{ranking.name}", {name} = ... }}'
            )
        ranking = ranking.name  # it says no more than that, as the default does
    try:
        found = make_ranking(ranking, flat)
    except ClatError as error:
        place = "selection." if str(error).split()[0] in flat else ""
        raise ClatError(f"{place}{error}") from None
    own = {each.name for each in fields(found)}
    for name, value in flat.items():
        if name not in own and value != FLAT.get(name):
            raise ClatError(f"selection.{name} is no setting of the ranking '{ranking}': leave it out")
    return found


def select(rule: Selection, layers: Sequence[Layer], report: Ranked[Any] | None, seed: int) -> list[str]:
    """Return the layers that move until the next selection.

    Args:
        rule: the stage's selection.
        layers: the candidates, `rule.candidates(model, x)`.
        report: their ranking, needed by the rules that rank.
        seed: seed of the draw, for the rule `random`.

    Returns:
        Their names, in forward order.

    Raises:
        ClatError: k exceeds the number of candidates, a named layer does not exist, or the report is missing.
    """
    if rule.rule == "named":
        return [layer.name for layer in find_layers(layers, rule.layers)]
    return [layer.name for layer in layers_called(layers, _chosen(rule, layers, report, seed))]


def _chosen(rule: Selection, layers: Sequence[Layer], report: Ranked[Any] | None, seed: int) -> list[str]:
    """Return the names that a rule other than `named` chooses, in any order."""
    names = [layer.name for layer in layers]
    if rule.rule == "all":
        return names
    if rule.k > len(layers):
        raise ClatError(
            f"selection.k is {rule.k}, but the model has {counted(len(layers), 'layer')} to select from"
        )
    if rule.rule == "random":
        return random.Random(seed).sample(names, rule.k)
    if report is None:
        raise ClatError(f"the rule '{rule.rule}' needs a criticality report or another ranking")
    return (report.top if rule.rule == "critical" else report.bottom)(rule.k)


def trainable_parameters(model: nn.Module, layers: Sequence[Layer] | None) -> dict[str, nn.Parameter]:
    """Return the parameters that move.

    Args:
        model: the network.
        layers: the selected layers, whose weight and bias move; None: everything moves.

    Returns:
        Parameters by name.
    """
    named = dict(model.named_parameters())
    if layers is None:
        return named
    wanted = {id(p) for layer in layers for p in model.get_submodule(layer.name).parameters()}
    return {name: parameter for name, parameter in named.items() if id(parameter) in wanted}


def updating_batch_norms(model: nn.Module, layers: Sequence[Layer], policy: str) -> set[_BatchNorm] | None:
    """Return the BatchNorm modules whose statistics a stage updates.

    Args:
        model: the network.
        layers: the selected layers.
        policy: one of `clat.network.modes.BN_POLICIES`.

    Returns:
        The modules; None: all of them.

    Raises:
        ClatError: for an unknown policy.
    """
    if policy not in BN_POLICIES:
        raise unknown("BatchNorm policy", policy, BN_POLICIES)
    if policy == "update":
        return None
    if policy == "frozen":
        return set()
    followers = [model.get_submodule(layer.norm_name) for layer in layers if layer.norm_name]
    within = [module for layer in layers for module in model.get_submodule(layer.name).modules()]
    return {module for module in (*followers, *within) if isinstance(module, _BatchNorm)}
