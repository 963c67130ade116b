"""The one-step attack with a random start of Fast-AT (Wong et al. 2020)."""

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
    random_start: bool = True,
    seed: int | None = None,
) -> Tensor:
    """One signed-gradient step of length `alpha` (None: 1.25 * eps, or eps without a random start), projected
    back into the ball. Arguments, result and errors as for `pgd`."""
    attack = Attack.parse(eps=eps, alpha=alpha, steps=1, norm=norm, random_start=random_start)
    attack = one_step_alpha(attack, given=alpha is not None)
    return pgd(model, x, y, eps=eps, alpha=attack.alpha, steps=1, norm=norm, random_start=random_start, seed=seed)


def one_step_alpha(attack: Attack, *, given: bool) -> Attack:
    """The attack with the customary step of a single-step attack, 1.25 * eps (10/255 at 8/255) from a random
    start and eps from x itself, unless a step was given. Raises ClatError for an attack of more steps."""
    if attack.steps != 1:
        raise ClatError(f"steps is {attack.steps}: expected 1, as the attack is a single step")
    eps = attack.threat.eps
    if given or eps == 0:
        return attack
    alpha = eps * 5 / 4 if attack.random_start else eps
    return replace(attack, alpha=min(alpha, Fraction(1)) if attack.threat.norm == "linf" else alpha)
