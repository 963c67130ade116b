"""The numbers that define an iterative attack, validated where they are built."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from clat.core.errors import ClatError
from clat.core.threat_model import NORMS, ThreatModel
from clat.core.units import Size, parse_size


@dataclass(frozen=True)
class Attack:
    """An iterative attack's budget, in image units ([0, 1])."""

    threat: ThreatModel
    """How far from x, and in which norm."""
    alpha: Fraction | None = None
    """The step size; None: 2.5 * eps / steps, which is 2/255 for 10 steps at 8/255."""
    steps: int = 10
    """Gradient steps."""
    random_start: bool = True
    """Begin at a uniform random point of the ball rather than at x."""

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ClatError(f"steps is {self.steps!r}: expected a whole number of at least 1")
        if self.threat.norm not in NORMS:
            raise ClatError(f"norm {self.threat.norm} is for evaluations by APGD alone: here it is linf or l2")
        if self.alpha == 0:
            raise ClatError("alpha is 0: the attack would not move; leave it out for 2.5 * eps / steps")

    @classmethod
    def parse(
        cls,
        *,
        eps: Size = "8/255",
        alpha: Size | None = None,
        steps: int = 10,
        norm: str = "linf",
        random_start: bool = True,
    ) -> Attack:
        """Return the attack that a user's words name.

        Args:
            eps: the radius of the ball in image units, a number or a fraction such as "8/255".
            alpha: the length of a step in image units, alike; None: 2.5 * eps / steps.
            steps: gradient steps, at least 1.
            norm: "linf" or "l2".
            random_start: begin at a uniform point of the ball rather than at x.

        Returns:
            The settings, with sizes as exact fractions.

        Raises:
            ClatError: for settings that make no sense.
        """
        return cls.under(ThreatModel.parse(eps, norm), alpha=alpha, steps=steps, random_start=random_start)

    @classmethod
    def under(
        cls, threat: ThreatModel, *, alpha: Size | None = None, steps: int = 10, random_start: bool = True
    ) -> Attack:
        """Return an attack under a threat model.

        Args:
            threat: radius and norm.
            alpha: the length of a step in image units, a number or a fraction such as "2/255"; None: 2.5 * eps /
                steps.
            steps: gradient steps, at least 1.
            random_start: begin at a uniform point of the ball rather than at x.

        Returns:
            The settings.

        Raises:
            ClatError: for settings that make no sense.
        """
        step = None if alpha is None else parse_size(alpha, what="alpha", norm=threat.norm)
        return cls(threat, step, steps, random_start)

    @property
    def step_size(self) -> float:
        """Return the length of a step in the norm, in image units."""
        return 2.5 * self.threat.radius / self.steps if self.alpha is None else float(self.alpha)
