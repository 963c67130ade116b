"""Rankings of layers, a dataclass each: settings, what it asks of a stage, and one call that measures.

To add one: a dataclass with a `name` and the function that measures, and a line in `AnyRanking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, WrapSerializer, WrapValidator
from torch import Tensor, nn

from clat.attacks.activation import check_decay
from clat.attacks.settings import Attack
from clat.core.checks import at_least
from clat.core.errors import ClatError, unknown
from clat.core.plugins import PluginKind
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.criticality.activation import check_attacked, measure_activation_ranking
from clat.criticality.index import check_names, default_normaliser, measure_criticality
from clat.criticality.ranking_report import Ranked
from clat.criticality.rewinding import check_search, measure_rewinding_criticality, measure_rewinding_drop
from clat.criticality.robust_criticality import check_ascent, measure_robust_criticality
from clat.network.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Base of the rankings. In each, a larger value means a more critical layer."""

    name: str
    about: ClassVar[str]
    """The value that layers are ranked by, in a few words."""
    function: ClassVar[Callable[..., Ranked[Any]]]
    """The public function that measures; it takes the settings by their names."""
    attacks: ClassVar[bool] = False
    """Whether it attacks the images, and so depends on the threat model."""
    needs_initial: ClassVar[bool] = False
    """Whether it needs the weights of the start."""
    reads_weights: ClassVar[bool] = False
    """Whether it puts other weights in a layer's place."""
    shards: ClassVar[bool] = False
    """Whether it ranks a network of which each process holds a part, see `clat.network.sharded`. Not inherited."""
    whole_network: ClassVar[bool] = False
    """Whether projection shortcuts and the classifier take part unless told otherwise."""

    def measure(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        layers: Sequence[Layer],
        eps: Size,
        norm: str = "linf",
        seed: int = 0,
        initial: Mapping[str, Tensor] | None = None,
    ) -> Ranked[Any]:
        """Rank `layers` on one batch; the model is left without a trace.

        Args:
            model: the network, from images in [0, 1] to logits.
            x: images, (N, C, H, W), float in [0, 1].
            y: labels, (N,), int64.
            layers: some of `enumerate_layers`.
            eps: radius of the attack in image units, where the ranking `attacks`.
            norm: "linf" or "l2", where the ranking `attacks`.
            seed: seed of all random choices.
            initial: the state dict at the start of training, where the ranking `needs_initial`.

        Returns:
            The report: a value a layer, a table, JSON.

        Raises:
            ClatError: images or labels that make no sense, or weights of the start that are missing.
        """
        threat = {"eps": eps, "norm": norm} if self.attacks else {}
        start: tuple[Any, ...] = ()
        if self.needs_initial:
            if initial is None:
                raise ClatError(f"the ranking '{self.name}' needs the weights of the start: give them as `initial`")
            start = (initial,)
        return type(self).function(model, *start, x, y, **threat, seed=seed, layers=layers, **self.settings())

    def rankable(self, count: int) -> int:
        """Return how many layers get a value that may be compared with the others'.

        Args:
            count: layers that take part.

        Returns:
            At most `count`.
        """
        return count

    def check(self, threat: ThreatModel) -> None:
        """Raise an error for settings that make no sense under a run's threat model; only those with attacks do.

        Args:
            threat: radius and norm of its attack.

        Raises:
            ClatError: such as a step as long as the whole range of pixels.
        """

    def settings(self) -> dict[str, Any]:
        """Return the settings, the ranking's own name aside.

        Returns:
            Values by name, as `function` takes them.
        """
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "name"}


@dataclass(frozen=True, kw_only=True)
class AttackedRanking(Ranking):
    """Base of the rankings that attack the images; eps and norm are the run's."""

    attacks = True
    alpha: Size | None = None
    """Step size of the attack; None: 2.5 * eps / steps, or eps / steps of the activation attack."""
    steps: int = 10
    """Steps of the attack."""

    def __post_init__(self) -> None:
        Attack.parse(alpha=self.alpha, steps=self.steps, norm="l2")  # checks both; l2 sets no limit to alpha

    def check(self, threat: ThreatModel) -> None:
        Attack.under(threat, alpha=self.alpha, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class CriticalityRanking(AttackedRanking):
    """CLAT's criticality index, see `clat.criticality.index`."""

    name: Literal["criticality"] = "criticality"
    about = "CLAT's criticality index C"
    shards = True
    function = staticmethod(measure_criticality)
    normaliser: Literal["numel", "sqrt", "relative", "none"] | None = None
    """What the change of a feature is divided by, see `clat.criticality.NORMALISERS`. None: what the paper divides
    by, which is N_i for the weakness and nothing for the curvature."""
    tap: Literal["output", "norm", "activation"] = "output"
    """Where a feature is read, see `clat.network.features.TAPS`; the paper says the output of the layer."""
    metric: Literal["weakness", "curvature"] = "weakness"
    """See `clat.criticality.METRICS`."""
    predecessor: Literal["forward", "input"] = "forward"
    """What a layer's feature is compared with, see `clat.criticality.PREDECESSORS`; the paper's is `forward`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normaliser is None:
            object.__setattr__(self, "normaliser", default_normaliser(self.metric))
        check_names(self.normaliser or "", self.tap, self.metric, self.predecessor)

    def rankable(self, count: int) -> int:
        """Return `count`, less layer 1 where it has no predecessor: its C is then no ratio."""
        return count - (self.predecessor == "forward")


@dataclass(frozen=True, kw_only=True)
class RobustCriticalityRanking(AttackedRanking):
    """RiFT's module robust criticality, see `clat.criticality.robust_criticality`."""

    name: Literal["mrc"] = "mrc"
    about = "RiFT's module robust criticality"
    function = staticmethod(measure_robust_criticality)
    reads_weights = True
    whole_network = True
    radius: float = 0.1
    """Largest change of a weight, as a share of its norm."""
    epochs: int = 10
    """Epochs of the ascent."""
    lr: float = 1.0
    """Step size of the ascent."""
    batch_size: int = 512
    """Images of one step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascent(self.radius, self.epochs, self.lr)
        at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class ActivationRanking(AttackedRanking):
    """Success of the activation attack at the layer, see `clat.criticality.activation`."""

    name: Literal["activation"] = "activation"
    about = "success of the activation attack at the layer"
    function = staticmethod(measure_activation_ranking)
    decay: float = 1.0
    """Of the attack's momentum, in [0, 1]."""
    tap: Literal["output", "norm", "activation"] = "output"
    """Where the feature is driven, see `clat.network.features.TAPS`."""
    value: Literal["target", "error"] = "target"
    """What counts as success, see `clat.criticality.activation.VALUES`."""
    batch_size: int = 512
    """Images attacked at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attacked(self.tap, self.value)
        check_decay(self.decay)
        at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class RewindingRanking(Ranking):
    """Module criticality, see `clat.criticality.rewinding`."""

    name: Literal["rewinding"] = "rewinding"
    about = "module criticality by rewinding (Chatterji et al.)"
    function = staticmethod(measure_rewinding_criticality)
    needs_initial = True
    reads_weights = True
    loss: Literal["error", "cross-entropy"] = "error"
    """Must not rise above the threshold."""
    slack: float = 0.01
    """How far above the network's own loss the threshold lies."""
    threshold: float | None = None
    """The largest loss allowed; None: by `slack`."""
    alphas: int = 11
    """Points on the way from the initial to the final weights."""
    draws: int = 10
    """Draws of the noise at each of them."""
    batch_size: int = 512
    """Images of one forward pass."""

    def __post_init__(self) -> None:
        check_search(self.loss, self.alphas, self.draws)
        at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class RewindingDropRanking(Ranking):
    """Accuracy lost by rewinding the layer, see `clat.criticality.rewinding`."""

    name: Literal["rewinding-drop"] = "rewinding-drop"
    about = "accuracy lost by rewinding the layer (Zhang et al.)"
    function = staticmethod(measure_rewinding_drop)
    needs_initial = True
    reads_weights = True
    batch_size: int = 512
    """Images of one forward pass."""

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)


BuiltInRanking = (
    CriticalityRanking | RobustCriticalityRanking | ActivationRanking | RewindingRanking | RewindingDropRanking
)

OWN_RANKINGS = PluginKind("ranking", "clat.rankings", Ranking, get_args(BuiltInRanking))

AnyRanking = Annotated[
    BuiltInRanking,
    Field(discriminator="name"),
    WrapValidator(OWN_RANKINGS.read),
    WrapSerializer(OWN_RANKINGS.write),
]
"""What a selection may rank by, told apart by its `name`; a `Ranking` of the user's own is named by its path or
entry point."""

RANKINGS: dict[str, type[AnyRanking]] = {ranking.name: ranking for ranking in get_args(BuiltInRanking)}
"""Name -> ranking, of those that come with clat."""


def find_ranking(name: str) -> type[AnyRanking]:
    """Return the class of a ranking by its name.

    Args:
        name: one of RANKINGS, or the path or entry point of one of the user's own.

    Returns:
        The class, whose fields are the ranking's settings.

    Raises:
        ClatError: there is none, or it is none of this kind.
    """
    found = RANKINGS.get(name) or OWN_RANKINGS.find_class(name)
    if found is None:
        raise unknown("ranking", name, RANKINGS)
    return found


def make_ranking(name: str, settings: Mapping[str, Any]) -> AnyRanking:
    """Return a ranking with those settings that concern it.

    Args:
        name: one of RANKINGS.
        settings: values by name; what the ranking does not know is left out.

    Returns:
        The ranking.

    Raises:
        ClatError: an unknown name, or a setting that makes no sense.
    """
    ranking = find_ranking(name)
    own = {each.name for each in fields(ranking)} - {"name"}
    return ranking(name=name, **{key: value for key, value in settings.items() if key in own})  # type: ignore[arg-type]
