"""Training the mixing network of adaptive smoothing (Bai et al. 2024, arXiv 2301.12554, and its released code).

The gate learns to tell attacked images, where the robust member should decide (s = 1), from clean ones (s = 0):

    loss = mean of  a * BCE(gate, s) + b * CE(mixture, y) + c * BCE(gate, s) * CE(mixture, y)

with (a, b, c) = (1.5, 0, 0.3) for CIFAR-10; c = 0.2 for CIFAR-100. Attacks go through the whole mixture as it is
evaluated, with a strength drawn anew for each batch. The released code draws it for each image, adds the gate's own
loss to the attack's with a random weight, and attacks nine target classes besides; here the attack ascends the
cross-entropy alone.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.apgd import apgd
from clat.attacks.pgd import pgd
from clat.core.errors import ClatError, unknown
from clat.core.seeds import derive_seed, generator
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.models.mixture import Mixture
from clat.objectives.base import Examples, Loss, Objective, Step, check_moves, check_weight, threat_of
from clat.runtime.callback import StageCallback, StageContext

ATTACKS = ("apgd", "pgd")

_GATE = "gate."  # what the parameters that move are called


@dataclass(frozen=True, kw_only=True)
class Mixing(Objective):
    """Training of a mixture's gate and nothing else; both members stay as they are, in evaluation mode."""

    splits = False  # one half of the whole batch is attacked

    name: Literal["mixing"] = "mixing"
    gate_weight: float = 1.5
    """a: of the gate's cross-entropy."""
    output_weight: float = 0.0
    """b: of the mixture's cross-entropy."""
    product_weight: float = 0.3
    """c: of their product."""
    attack: Literal["apgd", "pgd"] = "apgd"
    steps: int = 75
    """Gradient steps of the attack; 75 is the mean of the published random number."""
    eps: Size | None = None
    """None: the run's eps."""
    strength: tuple[float, float] = (0.4, 1.1)
    """The attack of a batch has a size of eps times a number drawn uniformly from this interval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack not in ATTACKS:
            raise unknown("attack", self.attack, ATTACKS)
        if self.steps < 1:
            raise ClatError(f"mixing: steps is {self.steps}, expected at least 1")
        for what in ("gate_weight", "output_weight", "product_weight"):
            check_weight("mixing", what, getattr(self, what))
        low, high = self.strength
        if not 0 < low <= high < math.inf:
            raise ClatError(f"mixing: strength is ({low}, {high}), expected 0 < low <= high")

    def check(self, threat: ThreatModel) -> None:
        check_moves(threat_of(Step(threat=threat), self.eps))

    def requires(self, model: nn.Module, x: Tensor) -> None:
        if not isinstance(model, Mixture) or model.gate is None:
            raise ClatError('the objective "mixing" trains the gate of a mixture: give model.gate and two members')

    def movable(self, model: nn.Module, x: Tensor) -> Set[str] | None:
        return {name for name, _ in model.named_parameters() if name.startswith(_GATE)}

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return GateOnly(context.model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        """Return (x',): the first half of the batch as it is, the second half attacked."""
        half = len(x) // 2
        clean, attacked, labels = x[:half], x[half:], y[half:] if y.dim() == 1 else y[half:].argmax(dim=1)
        seed, size = derive_seed(step.seed, "attack"), self.size(step)
        if self.attack == "apgd":
            found = apgd(model, attacked, labels, eps=size, norm=step.threat.norm, steps=self.steps, seed=seed)
        else:
            found = pgd(model, attacked, labels, eps=size, norm=step.threat.norm, steps=self.steps, seed=seed)
        return (torch.cat([clean, found]),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        assert isinstance(model, Mixture)
        (images,) = examples
        attacked = torch.arange(len(x), device=x.device) >= len(x) // 2
        logits, gate = model.outputs(images)
        assert gate is not None
        return mixing_loss(
            gate,
            logits,
            y,
            attacked,
            gate=self.gate_weight,
            output=self.output_weight,
            product=self.product_weight,
            label_smoothing=self.label_smoothing,
        )

    def size(self, step: Step) -> float:
        """Return the eps of this batch's attack, drawn by the step's seed.

        Args:
            step: gives the threat model, the share of eps that is due, and the seed.

        Returns:
            The radius in image units, `strength` times eps; in l-inf at most 1.
        """
        eps = threat_of(step, self.eps).radius
        low, high = self.strength
        drawn = low + (high - low) * torch.rand((), generator=generator(step.seed, "strength")).item()
        return min(eps * drawn, 1.0) if step.threat.norm == "linf" else eps * drawn


class GateOnly(StageCallback):
    """Restriction of a mixture's training: only the gate's parameters move.

    The members neither train nor update statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        assert isinstance(self.model, Mixture)
        self.model.standard.eval()
        self.model.robust.eval()
        return {name: parameter for name, parameter in parameters.items() if name.startswith(_GATE)}


def mixing_loss(
    gate_logit: Tensor,
    logits: Tensor,
    y: Tensor,
    attacked: Tensor,
    *,
    gate: float = 1.5,
    output: float = 0.0,
    product: float = 0.3,
    label_smoothing: float = 0.0,
) -> Loss:
    """Return a * BCE(gate, s) + b * CE + c * BCE(gate, s) * CE, the mean over the batch in float32.

    Gradients flow through both factors of the product.

    Args:
        gate_logit: (N,), before the sigmoid.
        logits: of the mixture, (N, K).
        y: labels, (N,) int64, or probabilities, (N, K).
        attacked: s, (N,), true where the image is an adversarial example.
        gate: a, the weight of the gate's cross-entropy.
        output: b, the weight of the mixture's cross-entropy.
        product: c, the weight of their product.
        label_smoothing: the part of each label that is spread evenly over the classes, in [0, 1).

    Returns:
        The loss with its graph, and its two cross-entropies.
    """
    bce = F.binary_cross_entropy_with_logits(gate_logit.float(), attacked.float(), reduction="none")
    ce = F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=label_smoothing)
    total = (gate * bce + output * ce + product * bce * ce).mean()
    return Loss(total, {"gate": bce.detach().mean(), "cross_entropy": ce.detach().mean()})
