"""SCORE (Pang et al. 2022): the squared distance of probabilities in place of the KL divergence, and a clip.

    LSE(p, q) = sum over classes of (p_k - q_k)^2

Unlike the KL divergence's, its square root obeys the triangle inequality. A sample's loss counts only beyond c, the
LSE between a one-hot vector and one with 1 - clip on the true class and clip / (K - 1) on each other: who is that
sure is not asked to be surer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.ascent import ascend, generator_for
from clat.attacks.ball import Ball, RandomStart
from clat.core.errors import ClatError
from clat.network import modes
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight


@dataclass(frozen=True, kw_only=True)
class ScoreAT(InnerAttack):
    """PGD-AT with LSE: min mean max(0, LSE(p(x'), y) - c), x' maximising LSE(p(x'), y).

    By default the attack starts at a uniform point and runs on batch statistics, as in the published code.
    """

    name: Literal["score-at"] = "score-at"
    clip: float = 0.4
    """How much probability may stay off the true class at no cost; 0: none."""
    label_smoothing: float = 0.0
    """The probability that the target gives to the wrong classes together; the attack aims at the true label."""
    start: RandomStart = "uniform"
    """Where the attack begins: a uniform point of the ball, or x + 0.001 * N(0, 1)."""
    attack_bn: Literal["eval", "train"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probability("clip", self.clip)

    def _check_label_smoothing(self) -> None:
        _check_probability("label_smoothing", self.label_smoothing)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack = self.attack(step)
        ball = Ball.around(x, attack.threat)
        start = ball.starting_point(self.start, generator_for(x.device, step.seed))

        def distance(z: Tensor) -> Tensor:
            found = probabilities(model(z))
            return lse(found, as_target(y, found.shape[1]) if reference is None else reference).sum()

        with modes.attack_mode(model, self.attack_bn):
            reference = self._reference(model, x)
            return (ascend(distance, start, ball, alpha=attack.step_size, steps=attack.steps),)

    def _reference(self, model: nn.Module, x: Tensor) -> Tensor | None:
        """Return what the attack moves away from, (N, K); None: the label."""
        return None

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        attacked = probabilities(model(x_adv))
        classes = attacked.shape[1]
        distance = lse(attacked, as_target(y, classes, self.label_smoothing))
        total = F.relu(distance - clip_distance(self.clip, classes)).mean()
        return Loss(total, {"distance": distance.detach().mean()})


@dataclass(frozen=True, kw_only=True)
class ScoreTrades(ScoreAT):
    """TRADES with LSE: min mean max(0, LSE(p(x), y) + beta * LSE(p(x'), p(x)) - c).

    x' maximises LSE(p(x'), p(x)). The clean output of the inner attack is a constant and computed once; in the loss
    the gradient flows into both. By default the attack starts at x + 0.001 * N(0, 1) on stored statistics. The code
    published for training with generated data has `beta = 4`, `start = "uniform"`, `attack_bn = "train"`, `clips =
    "divergence"`.
    """

    name: Literal["score-trades"] = "score-trades"  # type: ignore[assignment]
    beta: float = 6.0
    """Weight of the distance between the two outputs."""
    clip: float = 0.3
    clips: Literal["total", "divergence"] = "total"
    """What counts only beyond c: the sum of the two terms, or the distance between the outputs alone."""
    start: RandomStart = "normal"
    attack_bn: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("SCORE", "beta", self.beta)

    def _reference(self, model: nn.Module, x: Tensor) -> Tensor | None:
        with torch.no_grad():
            return probabilities(model(x))

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        attacked, clean = probabilities(model(x_adv)), probabilities(model(x))
        classes = clean.shape[1]
        distance = lse(clean, as_target(y, classes, self.label_smoothing))
        divergence = lse(attacked, clean)
        slack = clip_distance(self.clip, classes)
        if self.clips == "total":
            total = F.relu(distance + self.beta * divergence - slack)
        else:
            total = distance + self.beta * F.relu(divergence - slack)
        parts = {"distance": distance.detach().mean(), "divergence": divergence.detach().mean()}
        return Loss(total.mean(), parts)


def _check_probability(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ClatError(f"{what} is {value}: SCORE expects a probability, from 0 to 1")


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax in float32.

    Args:
        logits: (N, K).

    Returns:
        Class probabilities, (N, K) float32.
    """
    return F.softmax(logits.float(), dim=1)


def lse(p: Tensor, q: Tensor) -> Tensor:
    """Return LSE = sum_k (p_k - q_k)^2 for each sample.

    Args:
        p: class probabilities, (N, K).
        q: class probabilities, (N, K).

    Returns:
        The squared distance, (N,), from 0 to 2.
    """
    return (p - q).square().sum(dim=1)


def clip_distance(clip: float, classes: int) -> float:
    """Return c, the LSE up to which a sample's loss does not count.

    It is that between a one-hot vector and one with 1 - clip on its class, the rest shared evenly by the others.

    Args:
        clip: the probability that may stay off the true class, from 0 to 1.
        classes: K, at least 2.

    Returns:
        clip^2 + clip^2 / (K - 1).
    """
    return clip**2 + clip**2 / (classes - 1)


def as_target(y: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Return labels as class probabilities.

    Args:
        y: labels, (N,) int64, or probabilities, (N, K).
        classes: K.
        smoothing: the part that is taken away from each class and shared evenly by the others.

    Returns:
        Probabilities, (N, K) float32.
    """
    sure = F.one_hot(y, classes).float() if y.dim() == 1 else y.float()
    if smoothing == 0:
        return sure
    return (1 - smoothing) * sure + smoothing * (1 - sure) / (classes - 1)
