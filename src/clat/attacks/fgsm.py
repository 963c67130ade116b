"""FGSM (Goodfellow et al. 2015), and with a random start the attack of Fast-AT (Wong et al. 2020)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from clat.attacks.pgd import pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.units import Size
from clat.network.edge import Network


def fgsm(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    alpha: Size | None = None,
    norm: str = "linf",
    random_start: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Return adversarial examples of one gradient step, projected back into the ball.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        eps: the radius of the ball, in the unit of `x`: a number or a fraction such as "8/255".
        alpha: the length of the step, in the same unit; None: 1.25 * eps, or eps without a random start.
        norm: "linf" or "l2".
        random_start: begin at a uniform point of the ball rather than at x, as Fast-AT does; weaker, and what the
            protocol `fgsm-rs` measures.
        seed: the same seed gives the same example; None: a fresh one.

    Returns:
        x_adv, of the shape of `x`, within eps of it and within [0, 1] exactly.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a model without finite gradients.
    """
    attack = Attack.parse(eps=eps, alpha=alpha, steps=1, norm=norm, random_start=random_start)
    attack = one_step_alpha(attack, given=alpha is not None)
    return pgd(model, x, y, eps=eps, alpha=attack.alpha, steps=1, norm=norm, random_start=random_start, seed=seed)


def one_step_alpha(attack: Attack, *, given: bool) -> Attack:
    """Return the attack with the customary step of a single-step attack, unless a step was given.

    That is 1.25 * eps (10/255 at 8/255) from a random start and eps from x itself; in l-inf at most 1.

    Args:
        attack: settings with one step.
        given: the step size of `attack` was asked for and stays.

    Returns:
        The settings with the step size filled in.

    Raises:
        ClatError: for an attack of more steps.
    """
    if attack.steps != 1:
        raise ClatError(f"steps is {attack.steps}: expected 1, as the attack is a single step")
    eps = attack.threat.eps
    if given or eps == 0:
        return attack
    alpha = eps * 5 / 4 if attack.random_start else eps
    return replace(attack, alpha=min(alpha, Fraction(1)) if attack.threat.norm == "linf" else alpha)
