"""Parts that all training objectives share: the step they are given, the examples they train on, their loss."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.core.units import Size, parse_size
from clat.network.layers import Layer
from clat.runtime.callback import StageCallback, StageContext


class Loss(NamedTuple):
    """Loss of a batch. `total`: the scalar to minimise; `parts`: its named terms, detached, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


Examples = tuple[Any, ...]
"""What an inner attack found, as the objective's own `cost` understands it: a tuple, named where it has parts."""


@dataclass(frozen=True)
class Step:
    """Facts beside the batch that an objective may use."""

    layers: tuple[Layer, ...] = ()
    """The selected ones; empty: the whole network moves."""
    seed: int = 0
    """Seed of this step's attacks."""
    threat: ThreatModel = field(default_factory=ThreatModel.parse)
    """The run's threat model."""
    callback: StageCallback | None = None
    """The objective's own, if it brings one."""
    once: bool = False
    """The loss is evaluated once on the examples, at the weights that the attack saw, so that a pass which both
    need can be shared. Not so under a treatment, which may look at the loss elsewhere too."""
    progress: Fraction = Fraction(0)
    """How much of the stage is done, from 0 to below 1."""
    number: int = 0
    """Of the batch within its epoch, from 0."""
    eps_share: Fraction = Fraction(1)
    """What an eps schedule leaves of the attack's eps, and of its step size: see `clat.recipe.eps_schedule`."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of the objectives, which are plain settings plus two functions.

    The training loop sets the model's modes and calls `examples`, the inner attack, and then `cost`, the loss of
    the weights on what it found.
    """

    needs_selection = False
    """Whether it only makes sense on selected layers."""
    keeps_robustness = False
    """Whether it works on a network that is robust already, and makes none robust by itself."""
    second_order = False
    """Whether the loss holds a gradient, which is differentiated again; compiled blocks cannot be."""

    one_step = False
    """Whether training examples come from a single gradient step, so that catastrophic overfitting threatens."""
    mixed_labels = True
    """Whether y may be class probabilities, as label mixing makes them."""

    reparametrises = False
    """Whether its callback puts parameters of its own into the network's layers."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Names of the treatments that it cannot share a stage with."""
    attacks = True
    """Whether it trains on attacked images, so that there is an eps to schedule."""
    shards: ClassVar[bool] = False
    """Whether it trains a network of which each process holds a part, see `clat.network.sharded`: it then makes the
    same passes in every process. Not inherited: each class says it for itself."""
    splits = True
    """Whether the loss of a batch is the mean of those of its parts, so that it can be taken part by part."""

    name: str = ""
    """How a recipe names it; of one of the user's own, its path "package.module:Class", or an entry point."""
    label_smoothing: float = 0.0
    """The part of each label, in [0, 1), that the loss's cross-entropy spreads evenly over the classes (Szegedy et
    al. 2016). The inner attack keeps the label as it is."""

    def __post_init__(self) -> None:
        self._check_label_smoothing()

    def _check_label_smoothing(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ClatError(f"label_smoothing is {self.label_smoothing}: expected at least 0 and less than 1")

    @property
    def owns_weights(self) -> bool:
        """Return whether the weights of layers have to be parameters that move, computed from no others."""
        return False

    @property
    def goes_back(self) -> bool:
        """Return whether it goes back to weights by their held-out accuracy, for which no average may stand in."""
        return False

    @property
    def replays(self) -> int:
        """Return the number of optimizer steps on each batch."""
        return 1

    def check(self, threat: ThreatModel) -> None:
        """Raise an error if the settings make no sense under the run's threat model.

        Args:
            threat: radius and norm of the run.

        Raises:
            ClatError: with what does not fit.
        """

    def requires(self, model: nn.Module, x: Tensor) -> None:
        """Raise an error, before training starts, if this is no network that the objective can train.

        Args:
            model: the network as it enters the stage.
            x: an image, (1, C, H, W) in [0, 1].

        Raises:
            ClatError: with what the network lacks.
        """

    def movable(self, model: nn.Module, x: Tensor) -> Set[str] | None:
        """Return which parameters it needs to move: where a selection chooses none of them, nothing is left to do.

        Args:
            model: the network as it enters the stage.
            x: an image, (1, C, H, W) in [0, 1].

        Returns:
            Names of parameters of the network; None: all.
        """
        return None

    def on_stage_start(self, context: StageContext) -> StageCallback | None:
        """Return the state that the objective carries through a stage, if any.

        Args:
            context: the stage that begins.

        Returns:
            A callback, which each step gets back as `step.callback`; None: there is no state.
        """
        return None

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        """Return what the inner attack finds, which leaves no trace in the model.

        Args:
            model: the network in the modes of training.
            x: images, (N, C, H, W) in [0, 1].
            y: labels, (N,) int64, or class probabilities, (N, K) float, where labels are mixed.
            step: what else is known.

        Returns:
            A tuple for `cost`, usually of the adversarial examples (N, C, H, W) alone; empty: no attack.
        """
        return ()

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        """Return the loss of the weights on the examples.

        Args:
            model: the network in the modes of training.
            x: images, (N, C, H, W) in [0, 1].
            y: labels, (N,) int64, or class probabilities, (N, K) float, where labels are mixed.
            examples: what `examples` returned for this batch.
            step: the step that `examples` was given.

        Returns:
            The mean loss over the batch, with its graph, and its terms.
        """
        raise NotImplementedError

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Loss:
        """Attack, and return the loss on what was found.

        Args:
            model: the network in the modes of training.
            x: images, (N, C, H, W) in [0, 1].
            y: labels, (N,) int64, or class probabilities, (N, K) float, where labels are mixed.
            step: what else is known.

        Returns:
            The mean loss over the batch, with its graph, and its terms.
        """
        return self.cost(model, x, y, self.examples(model, x, y, step), step)


@dataclass(frozen=True, kw_only=True)
class InnerAttack(Objective):
    """Settings of an objective with an iterative inner attack."""

    eps: Size | None = None
    """Largest perturbation of the training examples; None: the run's eps."""
    alpha: Size | None = None
    """Step size; None: 2.5 * eps / steps, in one-step objectives 1.25 * eps or eps (`clat.attacks.fgsm`)."""
    steps: int = 10
    """Gradient steps of the attack."""
    attack_bn: Literal["eval", "train"] = "eval"
    """BatchNorm while attacking: the stored statistics, or, where it is in training mode itself, those of the batch
    (stored ones stay untouched)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_moves(self.attack(Step(threat=UNBOUNDED)).threat)

    def check(self, threat: ThreatModel) -> None:
        self.attack(Step(threat=threat))

    def attack(self, step: Step, *, random_start: bool = True) -> Attack:
        """Return the attack's settings for this step.

        Args:
            step: gives the threat model and the share of eps that is due.
            random_start: begin at a uniform point of the ball, where the objective leaves that open.

        Returns:
            The settings, their eps and alpha scaled by the step's `eps_share`.
        """
        threat, alpha = threat_of(step, self.eps), self.alpha
        if alpha is not None:  # an attack that starts at eps 0 has no step size either
            scaled = parse_size(alpha, what="alpha", norm=threat.norm) * step.eps_share
            alpha = None if step.eps_share == 0 else scaled
        return Attack.under(threat, alpha=alpha, steps=self.steps, random_start=random_start)


UNBOUNDED = ThreatModel.parse("8/255", "l2")
"""A threat model whose norm allows any size: settings are checked by it before the run's is known."""


def check_moves(threat: ThreatModel) -> None:
    """Raise an error if the ball of an objective's attack is a point.

    Args:
        threat: of the attack.

    Raises:
        ClatError: eps is 0.
    """
    if threat.eps == 0:
        raise ClatError("eps is 0: the attack would not move; leave it out for the run's eps")


def threat_of(step: Step, eps: Size | None) -> ThreatModel:
    """Return the threat model of a step's attack.

    Args:
        step: gives the run's threat model and the share of eps that its eps schedule grants.
        eps: an objective's own radius, in place of the run's; None: the run's.

    Returns:
        Norm and radius, the share taken.
    """
    threat = step.threat if eps is None else ThreatModel.parse(eps, step.threat.norm)
    return threat if step.eps_share == 1 else replace(threat, eps=threat.eps * step.eps_share)


def check_weight(who: str, what: str, value: float) -> None:
    """Raise an error unless the weight of a loss is finite and not negative.

    Args:
        who: the objective's name in the message.
        what: the setting's name in the message.
        value: the weight.

    Raises:
        ClatError: for any other number.
    """
    if not 0 <= value < math.inf:
        raise ClatError(f"{what} is {value}: {who} expects a weight of at least 0")


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy in float32, whatever precision the network ran in.

    Args:
        logits: (N, K).
        y: class numbers, (N,) int64, or probabilities, (N, K).
        label_smoothing: the part of each label, in [0, 1), that is spread evenly over the K classes (Szegedy et al.
            2016).

    Returns:
        The mean over the batch, a scalar.
    """
    return F.cross_entropy(
        logits.float(), y.float() if y.is_floating_point() else y, label_smoothing=label_smoothing
    )


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(softmax(reference) || softmax(logits)) in float32.

    Args:
        logits: (N, K).
        reference: logits, (N, K).

    Returns:
        The sum over the batch, a scalar.
    """
    return F.kl_div(
        F.log_softmax(logits.float(), dim=1),
        F.log_softmax(reference.float(), dim=1),
        reduction="sum",
        log_target=True,
    )
