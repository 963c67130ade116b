"""MART (Wang et al. 2020): misclassified examples count for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.ascent import generator_for
from clat.attacks.ball import Ball
from clat.attacks.pgd import run_pgd
from clat.core.errors import ClatError
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Mart(InnerAttack):
    """min BCE(p(x'), y) + beta * mean KL(p(x) || p(x')) * (1 - p_y(x)).

    BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x')); x' by PGD on the cross-entropy from x + 0.001 * N(0, 1).
    Nothing in the loss is a constant: the gradient flows into both outputs, and into the weight 1 - p_y(x), which
    may so be lowered by being right. The small numbers that keep the logarithms finite (1.0001, 1.0000001, 1e-12)
    are the published code's.
    """

    mixed_labels = False

    name: Literal["mart"] = "mart"
    beta: float = 5.0
    """Weight of the divergence: 5 for ResNet-18, 6 for wide ResNets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("MART", "beta", self.beta)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        if y.dim() != 1:
            raise ClatError("MART needs one label an image, not class probabilities: switch label mixing off")
        attack = self.attack(step)
        start = Ball.around(x, attack.threat).nearby_point(generator_for(x.device, step.seed))
        with modes.attack_mode(model, self.attack_bn):
            return (run_pgd(model, x, y, attack, seed=step.seed, start=start),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        logits, moved = model(x).float(), model(x_adv).float()
        natural, attacked = F.softmax(logits, dim=1), F.softmax(moved, dim=1)
        margin = -torch.log(1.0001 - _largest_other(attacked, y)).mean()
        attacked_entropy = cross_entropy(moved, y, self.label_smoothing)
        # By the logits: the gradient of p log p by a p that is 0 in float32 is not finite.
        divergence = (natural * (F.log_softmax(logits, dim=1) - torch.log(attacked + 1e-12))).sum(dim=1)
        weighted = (divergence * (1.0000001 - _own(natural, y))).mean()
        total = attacked_entropy + margin + self.beta * weighted
        parts = {"cross_entropy": attacked_entropy, "margin": margin, "weighted_divergence": weighted}
        return Loss(total, {name: value.detach() for name, value in parts.items()})


def _own(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return p_y, (N,)."""
    return probabilities.gather(1, y[:, None]).squeeze(1)


def _largest_other(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return the largest probability of a wrong class, (N,)."""
    return probabilities.masked_fill(F.one_hot(y, probabilities.shape[1]).bool(), -1).amax(dim=1)
