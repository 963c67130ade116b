"""The numbers that define an iterative attack, validated where they are built."""

from __future__ import annotations

from dataclasses import dataclass

from clat.attacks.ball import NORMS
from clat.core.errors import ClatError, unknown
from clat.core.units import Size, parse_size, size_text


@dataclass(frozen=True)
class Attack:
    """An iterative attack's budget. Sizes are in image units ([0, 1]) and kept as exact text, "8/255"."""

    eps: Size = "8/255"
    """The largest perturbation."""
    alpha: Size | None = None
    """The step size; None: 2.5 * eps / steps, which is 2/255 for 10 steps at 8/255."""
    steps: int = 10
    """Gradient steps."""
    norm: str = "linf"
    """"linf" or "l2"."""
    random_start: bool = True
    """Begin at a uniform random point of the ball rather than at x."""

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ClatError(f"steps is {self.steps!r}: expected a whole number of at least 1")
        eps = parse_size(self.eps, norm=self.norm)
        object.__setattr__(self, "eps", size_text(eps))
        if self.alpha is not None:
            alpha = parse_size(self.alpha, what="alpha", norm=self.norm)
            if alpha == 0:
                raise ClatError("alpha is 0: the attack would not move; leave it out for 2.5 * eps / steps")
            object.__setattr__(self, "alpha", size_text(alpha))

    @property
    def eps_value(self) -> float:
        return float(parse_size(self.eps, norm=self.norm))

    @property
    def alpha_value(self) -> float:
        if self.alpha is None:
            return 2.5 * self.eps_value / self.steps
        return float(parse_size(self.alpha, what="alpha", norm=self.norm))
