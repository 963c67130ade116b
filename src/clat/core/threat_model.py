"""Parse the threat model once, where a user names it: which perturbations a network is to withstand."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from clat.core.errors import unknown
from clat.core.units import Size, parse_size, size_text

NORMS = ("linf", "l2")
"""In which networks are trained and attacked."""
EVALUATION_NORMS = (*NORMS, "l1")
"""In which they can be evaluated; in l1 by APGD alone."""


@dataclass(frozen=True)
class ThreatModel:
    """All x' with ||x' - x|| <= eps in a norm and x' in [0, 1]."""

    eps: Fraction
    """The radius, exact, in image units ([0, 1])."""
    norm: str = "linf"
    """One of EVALUATION_NORMS."""

    def __post_init__(self) -> None:
        if self.norm not in EVALUATION_NORMS:
            raise unknown("norm", self.norm, EVALUATION_NORMS)

    @classmethod
    def parse(
        cls, eps: Size = "8/255", norm: str = "linf", *, what: str = "eps", norms: tuple[str, ...] = NORMS
    ) -> ThreatModel:
        """Return the threat model that a user's words name.

        Args:
            eps: a number or a fraction such as "8/255", in image units ([0, 1]).
            norm: one of `norms`.
            what: the name of `eps` in the message of an error.
            norms: NORMS, or EVALUATION_NORMS where nothing is trained.

        Returns:
            The threat model, its eps exact.

        Raises:
            ClatError: the norm does not exist, or eps makes no sense under it.
        """
        if norm not in norms:
            raise unknown("norm", norm, norms)
        return cls(parse_size(eps, what=what, norm=norm), norm)

    @property
    def radius(self) -> float:
        """Return the eps as a float, as the arithmetic of an attack takes it."""
        return float(self.eps)

    @property
    def text(self) -> str:
        """Return the eps as a user writes it, exact: "8/255"."""
        return size_text(self.eps)

    def eps_data(self) -> dict[str, Any]:
        """Return the eps for JSON, exact and as a number."""
        return {"text": self.text, "value": self.radius}

    def __str__(self) -> str:
        return f"{self.norm} eps {self.text}"
