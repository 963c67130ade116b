"""An eps that rises while a stage goes on: what a network that starts clean needs to become robust at all.

    eps_t = eps * share(t),    share(t) = from + (1 - from) * min(t / until, 1),    t: how much of the stage is done

From clean weights, training at the full eps from the first step on fails (arXiv 2509.23325).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from clat.core.errors import ClatError
from clat.core.units import Size, parse_size


@dataclass(frozen=True, kw_only=True)
class EpsSchedule:
    """The eps of the training attack, and with it a step size that is given, rises linearly; selection, monitoring
    and evaluation keep the full one. The share follows from the place in the stage alone, which resuming knows."""

    from_: Annotated[Size, Field(alias="from")] = 0
    """The share of eps at the first step (`from` in a recipe): a number or a fraction, from 0 to 1."""
    until: Size = 0.75
    """The part of the stage after which eps is full: a number or a fraction, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if self._start > 1:
            raise ClatError(f"eps_schedule.from is {self.from_}: expected a share of eps, from 0 to 1")
        if not 0 < self._end <= 1:
            raise ClatError(f"eps_schedule.until is {self.until}: expected a part of the stage, above 0 to 1")

    @property
    def _start(self) -> Fraction:
        return parse_size(self.from_, what="eps_schedule.from", norm="l2")

    @property
    def _end(self) -> Fraction:
        return parse_size(self.until, what="eps_schedule.until", norm="l2")

    def share(self, progress: Fraction) -> Fraction:
        """Return the share of eps, exact, in [0, 1].

        Args:
            progress: how much of the stage is done, in [0, 1].

        Returns:
            share(t) of the file's equation, the factor of eps and of a step size that is given.
        """
        return self._start + (1 - self._start) * min(progress / self._end, Fraction(1))
